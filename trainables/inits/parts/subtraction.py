"""Starts at the base whatever is in the adapter: what the adapter starts with is subtracted again, for good.

PiSSA (Meng et al. 2024, arXiv 2404.02948) subtracts it from the base weight: W_res = W - s B_0 A_0. Here the base
weight stays as it is, and the frozen A_0 and B_0 work beside it:

    y = W x + s (B A dropout(x) - B_0 A_0 x)

is the same function. It costs two thin matrix products more, and gives what the dense difference cannot:

- The start is the base to the last bit, in every precision: equal products cancel. A W_res in bf16 is rounded
  elsewhere than W in bf16, and a dW of some thousandths of W is below most weights' rounding step.
- Model and saved adapter are one. The artefact holds [A; A_0] and [B, -B_0] of twice the rank on the original base,
  which is PEFT's own conversion (`path_initial_model_for_weight_conversion`), and `PeftModel.from_pretrained` makes of
  it the arithmetic above: the same rounding of W.
- Nothing else has to know: not the casting of frozen weights, not ZeRO's shards of the base (A_0 and B_0 are buffers,
  whole on each worker), not the next run of a warm worker.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn

from trainables.base import Context
from trainables.inits.parts.layers import Adapted, adapted_layers
from trainables.training.workers import Workers

START = "start"
"""The buffer of A and B that holds A_0 and B_0."""
FILE = "subtracted.safetensors"
"""A_0 and B_0 beside a run's checkpoints: the next attempt may compute them on another machine, and differently."""


class Subtracted(LoraVariant):  # type: ignore[misc]
    """The forward pass of an adapter whose start is subtracted; as in PiSSA no dropout falls on what stays."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """Return `result`, the base layer's output, with the adapter's change added."""
        a, b = module.lora_A[active_adapter], module.lora_B[active_adapter]
        now = b(a(module.lora_dropout[active_adapter](x)))
        then = nn.functional.linear(nn.functional.linear(x, a.start), b.start)
        changed: Tensor = result + (now - then) * module.scaling[active_adapter]
        return changed

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Refuse, as `merge_safe` does, where the base class would silently do nothing."""
        raise NotImplementedError("save the adapter and load it as a plain one, of twice the rank, to merge it")


def subtract_start(part: Adapted) -> None:
    """Subtract what the adapter holds now from what it will add from here on."""
    for half in (part.down, part.up):
        half.register_buffer(START, half.weight.detach().clone(), persistent=False)
    part.layer.lora_variant[part.adapter] = Subtracted()


def subtracted(model: Any) -> dict[str, Tensor]:
    """Return A_0 and B_0 by the names of the weights A and B in the base model; empty if nothing is subtracted."""
    found = {}
    for part in adapted_layers(model):
        for kind, half in (("lora_A", part.down), ("lora_B", part.up)):
            if hasattr(half, START):
                found[f"{part.name}.{kind}.{part.adapter}.weight"] = half.start
    return found


def with_start(weights: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return [A; A_0] and [B, -B_0] for the weights that have a start, and the others as they are."""
    joined = {}
    for name, value in weights.items():
        if name in start:
            then = start[name].to(value)
            value = torch.cat([value, then]) if ".lora_A." in name else torch.cat([value, -then], dim=1)
        joined[name] = value
    return joined


def of_twice_the_rank(config: Any) -> Any:
    """Return a copy of PEFT's configuration for twice the rank at the same scaling of every layer.

    rsLoRA divides alpha by the root of the rank, so there alpha grows by the root of 2.
    """
    growth = 2**0.5 if config.use_rslora else 2
    twice = copy.copy(config)
    twice.r, twice.lora_alpha = 2 * config.r, growth * config.lora_alpha
    twice.rank_pattern = {key: 2 * rank for key, rank in config.rank_pattern.items()}
    twice.alpha_pattern = {key: growth * alpha for key, alpha in config.alpha_pattern.items()}
    return twice


def settle(model: Any, context: Context, workers: Workers) -> None:
    """Make the start the same for all workers of a run, and what is subtracted the same for all of its attempts.

    A decomposition may come out with other signs or rounding on another machine. So the first worker's adapter counts,
    and A_0 and B_0 lie beside the checkpoints, from where a resumed run reads them.
    """
    from safetensors.torch import load_file

    start = subtracted(model)
    kept = None if context.resume_from is None else context.resume_from.parent / FILE
    if start and kept is not None and kept.exists():
        for name, value in load_file(kept).items():
            start[name].copy_(value)
    elif workers.size > 1:
        weights = [value.detach() for value in model.parameters() if value.requires_grad]
        _take_the_firsts([*weights, *start.values()], workers)
    if start and workers.is_first and kept != context.checkpoints / FILE:
        _keep(start, context.checkpoints / FILE)


def _take_the_firsts(tensors: list[Tensor], workers: Workers) -> None:
    for tensor in tensors:
        value = tensor.to(workers.device, copy=True)
        tensor.copy_(workers.sum(value if workers.is_first else value.zero_()))


def _keep(start: Mapping[str, Tensor], path: Path) -> None:
    """Write the file under another name, flush it, and rename it into place."""
    from safetensors.torch import save

    beside = path.with_name(f".{path.name}")
    with beside.open("wb") as stream:
        stream.write(save({name: value.contiguous().cpu() for name, value in start.items()}))
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
