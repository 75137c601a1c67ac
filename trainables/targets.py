"""Which weights of a model an adapter can hold, and which of them a config names; names mean what they mean in PEFT.

Knowing the names needs no torch: planning reads them from the checkpoint's header. Which of them are linear
layers only the model's own classes say (a Conv1D stores its weight transposed, an embedding looks like a linear
layer), so `read_layout` builds the model without its weights.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.base import InputError
from trainables.checkpoint_files import TensorInfo

ALL_LINEAR = "all-linear"
EMBEDDING = re.compile(r"(embed[a-z_]*|wte|wpe)\.weight$")


@dataclass(frozen=True)
class Linear:
    """A linear layer: its module name and the shape of its weight as y = W x has it."""

    name: str
    out_features: int
    in_features: int
    is_transposed: bool = False
    """True for GPT-2's Conv1D, which stores W^T (in, out)."""

    @property
    def weight(self) -> str:
        """The name of its weight."""
        return f"{self.name}.weight"

    def rank(self, rank: int) -> int:
        """Return `rank`, capped at what a matrix of this shape can have."""
        return min(rank, self.out_features, self.in_features)


@dataclass(frozen=True)
class Parameter:
    """A tensor of a model: its shape, and every name that a checkpoint may store it under, the model's own first."""

    names: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The model's own name for it."""
        return self.names[0]


@dataclass(frozen=True)
class Layout:
    """The tensors of a model, tied ones once, and its linear layers by module name; `head` is the output head."""

    parameters: tuple[Parameter, ...]
    linears: Mapping[str, Linear]
    head: str | None
    is_head_tied: bool


def select(layout: Layout, target_modules: str | Sequence[str]) -> list[Linear]:
    """Return the linear layers that `target_modules` names, in the model's order.

    "all-linear" is every linear layer but the output head; any other string is a regular expression for whole
    module names, a list holds names or ends of names. Raises InputError for a name that matches no linear layer,
    and for an output head that is tied: its weight is the embedding's, and an adapter changes only one of the two.
    """
    check_targets(target_modules, layout.linears)
    chosen = [linear for name, linear in layout.linears.items() if is_target(name, target_modules, layout.head)]
    if layout.is_head_tied and any(linear.name == layout.head for linear in chosen):
        raise InputError(f"target_modules names {layout.head!r}, whose weight is tied to the embeddings; leave it out")
    return chosen


def is_target(module: str, target_modules: str | Sequence[str], head: str | None = None) -> bool:
    """Say whether PEFT would put an adapter on the linear layer `module` of a model with this output head."""
    if isinstance(target_modules, str):
        if target_modules.lower() == ALL_LINEAR:
            return module != head
        return re.fullmatch(target_modules, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in target_modules)


def check_targets(target_modules: str | Sequence[str], modules: Iterable[str]) -> None:
    """Raise InputError if a name in `target_modules` matches none of `modules`; the message lists what there is."""
    modules = list(modules)
    wanted = [target_modules] if isinstance(target_modules, str) else [[name] for name in target_modules]
    for names in wanted:
        try:
            is_matched = any(is_target(module, names) for module in modules)
        except re.error as error:
            raise InputError(f"target_modules={names!r} is no regular expression: {error}") from None
        if not is_matched:
            said = names if isinstance(names, str) else names[0]
            raise InputError(_no_match(said, sorted({module.rpartition(".")[2] for module in modules})))
    if not wanted:
        raise InputError(f"target_modules is empty; give names of layers, or {ALL_LINEAR!r}")


def _no_match(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.rpartition(".")[2], [*known, ALL_LINEAR], n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"target_modules={name!r} matches no linear layer of the model.{hint} Linear layers: {', '.join(known)}."


def linear_shapes(tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    """Return the linear layers of a checkpoint as far as its header tells: module names with their weights' shapes.

    For planning, which may not build a model. Embeddings look like linear layers and are told by their names.
    """
    return {
        name.removesuffix(".weight"): info.shape
        for name, info in tensors.items()
        if name.endswith(".weight") and len(info.shape) == 2 and not EMBEDDING.search(name)
    }


def layer_types(modules: Sequence[str]) -> dict[str, str]:
    """Return each module's type: the last part of its name, with its parent's where that alone says too little.

    GPT-2 calls two different layers `c_proj`; there the types are `attn.c_proj` and `mlp.c_proj`.
    """
    parents: dict[str, set[str]] = {}
    for module in modules:
        path, _, last = module.rpartition(".")
        parents.setdefault(last, set()).add(path.rpartition(".")[2])
    types = {}
    for module in modules:
        last = module.rpartition(".")[2]
        types[module] = ".".join(module.split(".")[-2:]) if len(parents[last]) > 1 else last
    return types


def depth(module: str) -> int | None:
    """Return the index of the block that a module is in; None outside the blocks."""
    return next((int(part) for part in module.split(".") if part.isdigit()), None)


def read_layout(folder: Path) -> Layout:
    """Return the layout of the model in a Hugging Face folder; no weight is read or allocated."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    linears = {}
    for name, module in model.named_modules():
        if isinstance(module, Conv1D):
            linears[name] = Linear(name, module.weight.shape[1], module.weight.shape[0], is_transposed=True)
        elif isinstance(module, nn.Linear):
            linears[name] = Linear(name, module.out_features, module.in_features)
    output, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    head = next((name for name, module in model.named_modules() if module is output), None)
    is_tied = output is not None and output.weight is embeddings.weight
    return Layout(tuple(_parameters(model)), linears, head, is_tied)


def _parameters(model: Any) -> list[Parameter]:
    """Return the model's tensors; some checkpoints lack the inner model's prefix (`transformer.`, the hub's gpt2)."""
    names: dict[int, list[str]] = {}
    tensors = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    prefix = f"{model.base_model_prefix}."
    parameters = []
    for known in names.values():
        bare = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
        parameters.append(Parameter((*known, *bare), tuple(tensors[known[0]].shape)))
    return parameters
