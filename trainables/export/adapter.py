"""Factors as a PEFT adapter: a folder that `PeftModel.from_pretrained` reads, written layer by layer.

What PEFT will make of a configuration is not guessed but asked: the adapter is built by PEFT on a model without
weights first, which gives the layers it adapts, the names and shapes of its tensors, and every layer's scaling.
An adapter contributes scaling * B A, so B is divided by the scaling of its own layer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from trainables.base import InputError
from trainables.linalg.adapter_factors import PREFIX
from trainables.linalg.factors import Factors
from trainables.linalg.tensor_file import write_tensors
from trainables.targets import is_target, layer_types

WEIGHTS = "adapter_model.safetensors"
AdapterDtype: TypeAlias = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class AdapterOptions:
    """How an adapter stores what it holds; none of it changes the product it stands for, but for the rounding of bf16.

    lora_alpha   one numerator of the scaling for all layers; None: each layer's rank, so that rank by alpha is 1
    use_rslora   scaling alpha / sqrt(rank) instead of alpha / rank
    balanced     A = sqrt(S) V^T and B = U sqrt(S) instead of A = V^T and B = U S
    dtype        of the stored tensors
    """

    lora_alpha: float | None = None
    use_rslora: bool = False
    balanced: bool = False
    dtype: AdapterDtype = "fp32"


@dataclass(frozen=True)
class Skeleton:
    """What PEFT makes of a configuration: its tensors' shapes by name, and the scaling of each adapted layer."""

    config: Any
    shapes: Mapping[str, tuple[int, ...]]
    scalings: Mapping[str, float]


def write_adapter(
    folder: Path,
    base: Path,
    factors: Mapping[str, Factors],
    ranks: Mapping[str, int],
    *,
    options: AdapterOptions | None = None,
    base_name: str = "",
    base_revision: str | None = None,
) -> int:
    """Write `adapter_config.json` and `adapter_model.safetensors`; return the number of parameters.

    `base` is the base model's folder, `ranks` the rank of each layer (0: no adapter there), `base_name` what the
    adapter calls its base: a hub id, or the path as the user knows it. Raises InputError if every rank is 0.
    """
    options = options or AdapterOptions()
    ranks = {name: rank for name, rank in ranks.items() if rank}
    if not ranks:
        raise InputError("the tuned model equals the base in every chosen layer: there is nothing to put in an adapter")
    skeleton = ask_peft(base, ranks, options)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _tensors(skeleton, factors, ranks, options)
    write_tensors(folder / WEIGHTS, skeleton.shapes, tensors, DTYPES[options.dtype])
    config = skeleton.config
    config.base_model_name_or_path, config.revision = base_name, base_revision
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # PEFT's set would be in another order each time
    config.save_pretrained(folder)
    return sum(map(math.prod, skeleton.shapes.values()))


def ask_peft(base: Path, ranks: Mapping[str, int], options: AdapterOptions) -> Skeleton:
    """Return what PEFT builds for these ranks on the model in `base`; no weight is read or allocated."""
    from peft import get_peft_model, get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
    from transformers import AutoConfig, AutoModelForCausalLM

    from trainables.training.models import quiet

    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
        modules = dict(model.named_modules())
        config = lora_config(modules, ranks, options)
        adapted = get_peft_model(model, config)
    layers = {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    found = {name: layer.r["default"] for name, layer in layers.items()}
    if found != dict(ranks):
        wrong = sorted(set(found.items()) ^ set(ranks.items()))[0]
        raise RuntimeError(f"PEFT adapts other layers than were chosen, or to other ranks; first {wrong}")
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    scalings = {name: float(layer.scaling["default"]) for name, layer in layers.items()}
    return Skeleton(config, {name: tuple(tensor.shape) for name, tensor in state.items()}, scalings)


def lora_config(modules: Mapping[str, Any], ranks: Mapping[str, int], options: AdapterOptions) -> Any:
    """Return PEFT's configuration that adapts exactly the layers of `ranks`; `modules` are all those of the model."""
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    counts = Counter(ranks.values())
    common = max(counts, key=lambda rank: (counts[rank], rank))
    others = {pattern(name): rank for name, rank in ranks.items() if rank != common}
    alpha = common if options.lora_alpha is None else options.lora_alpha
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=common,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,
        rank_pattern=others,
        alpha_pattern=dict(others) if options.lora_alpha is None else {},
        use_rslora=options.use_rslora,
        target_modules=target_names(list(modules), list(ranks)),
        fan_in_fan_out=any(isinstance(modules[name], Conv1D) for name in ranks),
    )


def pattern(module: str) -> str:
    r"""Return the key of `rank_pattern` that means this module and no other.

    PEFT matches `(.*\.)?(KEY)$` from the start of a module's name: a dot in a bare name stands for any character, and
    a name would also match at the end of a longer one.
    """
    return f"^{re.escape(module)}"


def target_names(modules: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Return `target_modules` for exactly the chosen modules: their types if that means no other, else full names.

    PEFT takes a name that equals an entry of the list or ends in it after a dot.
    """
    types = sorted(set(layer_types(chosen).values()))
    for names in (types, sorted(chosen)):
        if {module for module in modules if is_target(module, names)} == set(chosen):
            return names
    inside = next(module for module in modules if module not in chosen and is_target(module, list(chosen)))
    raise InputError(f"PEFT cannot adapt the chosen layers without {inside}, whose name ends as one of theirs: add it")


def _tensors(
    skeleton: Skeleton, factors: Mapping[str, Factors], ranks: Mapping[str, int], options: AdapterOptions
) -> Iterator[tuple[str, Tensor]]:
    """Yield the adapter's tensors in the skeleton's order; one layer's factors are in memory at a time."""
    layer, halves = "", {}
    for name in skeleton.shapes:
        module, _, half = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if module != layer:
            layer, found = module, factors[module].truncated(ranks[module])
            halves = dict(zip(("lora_A", "lora_B"), split(found, skeleton.scalings[module], options), strict=True))
        yield name, halves[half]


def split(factors: Factors, scaling: float, options: AdapterOptions) -> tuple[Tensor, Tensor]:
    """Return A (r, in) and B (out, r) such that scaling * B A is what the factors stand for."""
    if options.balanced:
        root = factors.s.sqrt()
        return root[:, None] * factors.vt, factors.u * (root / scaling)
    return factors.vt, factors.u * (factors.s / scaling)
