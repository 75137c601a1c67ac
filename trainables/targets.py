"""Which weights of a model an adapter can hold, and which of them a config names; names mean what they mean in PEFT.

Knowing the names needs no torch: planning reads them from the checkpoint's header. Which of them are linear
layers only the model's own classes say (a Conv1D stores its weight transposed, an embedding looks like a linear
layer), so `read_layout` builds the model without its weights.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from trainables.base import InputError
from trainables.checkpoint_files import TensorInfo, read_headers

ALL_LINEAR = "all-linear"
EMBEDDING = re.compile(r"(embed[a-z_]*|wte|wpe)\.weight$")
Group: TypeAlias = Literal["attention", "mlp", "other"]
GROUPS: tuple[Group, ...] = ("attention", "mlp", "other")
ATTENTION = re.compile(r"attn|attention")
MLP = re.compile(r"mlp|ffn|feed_?forward|moe|expert|intermediate|densereludense|^fc(1|2|_in|_out)$")
BARE_OUTPUT = re.compile(r"\.\d+\.output\.dense$")
DEPTHS = re.compile(r"(\d+)(?:-(\d+))?")


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
    """A tensor of a model: its shape, and every name that a checkpoint may store it under, the model's own first.

    `reason` says why no adapter's factors hold it ("1-D", "embeddings"); it is empty for linear layers in the blocks.
    `has_vocabulary_rows` is true where each row is one token's, so that a resized vocabulary changes the number.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    reason: str = ""
    has_vocabulary_rows: bool = False

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

    @property
    def by_name(self) -> dict[str, Parameter]:
        """The tensors by every name that a checkpoint may store them under."""
        return {name: parameter for parameter in self.parameters for name in parameter.names}


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
    if not known:
        return f"target_modules={name!r} matches nothing: no tensor of the model is a linear layer's weight"
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


def choose(linears: Sequence[Linear], layers: Sequence[Sequence[str]]) -> list[Linear]:
    """Return the linear layers that satisfy every `--layers` option, in the model's order; all if there is none.

    Each option is a list of alternatives. One is a depth ("3"), a range of depths with both its ends ("0-11"), a
    group ("attention", "mlp", "other"), a name or any whole parts of it that stand together ("q_proj", "attn.c_proj",
    "model.layers.3"), or a glob of the whole name or of its end ("model.layers.3.*", "mlp.*_proj"). Raises InputError
    for an alternative that matches none of `linears`, and for options that no layer satisfies together.
    """
    chosen = list(linears)
    for option in layers:
        matched: set[str] = set()
        for item in option:
            found = {linear.name for linear in linears if _is_matched(linear.name, item)}
            if not found:
                raise InputError(_no_choice(item, linears))
            matched |= found
        chosen = [linear for linear in chosen if linear.name in matched]
    if layers and not chosen:
        said = " and ".join(f"--layers {','.join(option)}" for option in layers)
        raise InputError(f"{said}: no linear layer satisfies all of them; alternatives go into one option: a,b")
    return chosen


def _is_matched(module: str, item: str) -> bool:
    depths = DEPTHS.fullmatch(item)
    if depths:
        first, last = int(depths[1]), int(depths[2] or depths[1])
        return depth(module) in range(first, last + 1)
    if item in GROUPS:
        return group(module) == item
    if any(sign in item for sign in "*?["):
        return fnmatch.fnmatchcase(module, item) or fnmatch.fnmatchcase(module, f"*.{item}")
    return bool(item) and f".{item}." in f".{module}."


def _no_choice(item: str, linears: Sequence[Linear]) -> str:
    names = [linear.name for linear in linears]
    types = list(dict.fromkeys(layer_types(names).values()))
    groups = [known for known in GROUPS if any(group(name) == known for name in names)]
    near = difflib.get_close_matches(item, [*groups, *types, *names], n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"--layers {item!r} matches none of the {len(names)} linear layers.{hint} Depths: {_depths(names)}; "
        f"groups: {', '.join(groups)}; types: {', '.join(types)}; or a glob such as {_glob(names)!r}"
    )


def _depths(names: Sequence[str]) -> str:
    """Return the depths there are as ranges: "0-11", "0-2, 5"."""
    known = sorted({found for found in map(depth, names) if found is not None})
    starts = [index for index in known if index - 1 not in known]
    ends = [index for index in known if index + 1 not in known]
    runs = [f"{start}-{end}" if end > start else str(start) for start, end in zip(starts, ends, strict=True)]
    return ", ".join(runs) or "none"


def _glob(names: Sequence[str]) -> str:
    block = next((match[0] for name in names if (match := re.match(r".*?\.\d+\.", name))), "")
    return f"{block}*"


def group(module: str) -> Group:
    """Return whether a linear layer is part of its block's attention, of its feed-forward network, or of neither.

    Judged by the module's name, innermost part first: Llama's `self_attn`, GPT-2's `attn`, BERT's `attention`; `mlp`,
    `ffn`, `feed_forward`, experts, OPT's bare `fc1`, BERT's `intermediate` and bare `output`.
    """
    if BARE_OUTPUT.search(module):
        return "mlp"
    for part in reversed(module.lower().split(".")):
        if ATTENTION.search(part):
            return "attention"
        if MLP.search(part):
            return "mlp"
    return "other"


def layer_types(modules: Sequence[str]) -> dict[str, str]:
    """Return each module's type: its name without indices, cut to the shortest end that no other type shares.

    GPT-2 calls two different layers `c_proj`; there the types are `attn.c_proj` and `mlp.c_proj`.
    """
    paths = {module: tuple(part for part in module.split(".") if not part.isdigit()) for module in modules}
    shared = Counter(path[-length:] for path in set(paths.values()) for length in range(1, len(path) + 1))
    types = {}
    for module, path in paths.items():
        length = next((length for length in range(1, len(path)) if shared[path[-length:]] == 1), len(path))
        types[module] = ".".join(path[-length:])
    return types


def depth(module: str) -> int | None:
    """Return the index of the block that a module is in; None outside the blocks."""
    return next((int(part) for part in module.split(".") if part.isdigit()), None)


def read_layout(folder: Path) -> Layout:
    """Return the layout of the model in a Hugging Face folder, by the model's own names; no weight is read.

    A tensor that transformers converts as it loads it stands in the layout as it is stored, and belongs to no linear
    layer. A folder without weights gives the layout of its config.
    """
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
    prefix = f"{model.base_model_prefix}."
    parameters = [_with_bare_names(item, prefix) for item in _as_stored(model, _parameters(model), folder)]
    held = {name for parameter in parameters for name in parameter.names}
    linears = {name: linear for name, linear in linears.items() if linear.weight in held}
    return Layout(tuple(parameters), linears, head, is_tied)


def _parameters(model: Any) -> list[Parameter]:
    """Return the model's tensors by the model's own names."""
    names: dict[int, list[str]] = {}
    tensors = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    vocabulary = {id(module) for module in (model.get_output_embeddings(), model.get_input_embeddings())}
    parameters = []
    for known in names.values():
        owners = [model.get_submodule(name.rpartition(".")[0]) for name in known]
        has_tokens = any(id(owner) in vocabulary for owner in owners)
        shape = tuple(tensors[known[0]].shape)
        parameters.append(Parameter(tuple(known), shape, _reason(model, known, owners), has_tokens))
    return parameters


def _reason(model: Any, names: Sequence[str], owners: Sequence[Any]) -> str:
    """Return why no factors describe a tensor that these modules hold under these names, or "" where some can."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd
    from transformers.pytorch_utils import Conv1D

    dimensions = model.get_parameter(names[0]).ndim
    is_head = any(owner is model.get_output_embeddings() for owner in owners)
    if dimensions < 2:
        return f"{dimensions}-D"
    if any(isinstance(owner, nn.Embedding) for owner in owners):
        return "output head tied to the embeddings" if is_head else "embeddings"
    if is_head:
        return "output head"
    if isinstance(owners[0], nn.Linear | Conv1D):
        return ""
    if isinstance(owners[0], _ConvNd):
        return "convolution"
    if "expert" in names[0]:
        return f"experts in one {dimensions}-D tensor"
    return "no linear layer" if dimensions == 2 else f"{dimensions}-D"


def _as_stored(model: Any, parameters: list[Parameter], folder: Path) -> list[Parameter]:
    """Return the parameters with the names of the folder's checkpoint added, and converted ones as it stores them."""
    from trainables.stored_names import stored_names

    if not any(folder.glob("*.safetensors")):
        return parameters
    headers = read_headers(folder)
    names = stored_names(model, headers)
    gone = {name for targets in names.converted.values() for name in targets}
    kept = []
    for item in parameters:
        if not gone & set(item.names):
            aliases = [alias for name in item.names for alias in names.of(name)]
            kept.append(replace(item, names=tuple(dict.fromkeys([*item.names, *aliases]))))
    parts = [Parameter((stored,), headers[stored].shape, _why_converted(stored)) for stored in names.converted]
    return kept + parts


def _with_bare_names(parameter: Parameter, prefix: str) -> Parameter:
    """Add its names without the inner model's prefix, which some checkpoints lack (`transformer.`, the hub's gpt2)."""
    bare = [name.removeprefix(prefix) for name in parameter.names]
    return replace(parameter, names=tuple(dict.fromkeys([*parameter.names, *bare])))


def _why_converted(stored: str) -> str:
    return "experts" if "expert" in stored else "stored otherwise than the model holds it"
