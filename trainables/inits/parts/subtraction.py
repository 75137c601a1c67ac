"""Starts at the base whatever is in the adapter: what the adapter starts with is subtracted again, for good.

PiSSA (Meng et al. 2024, arXiv 2404.02948) subtracts it from the base weight: W_res = W - s B_0 A_0. Here the base
weight stays as it is, and the frozen A_0 and B_0 work beside it:

    y = W x + s (B A dropout(x) - B_0 A_0 x)

is the same function. It costs thin matrix products more (of SmolLM2's step on a CPU in bf16 3 % at rank 16 and 15 to
20 % at 64) and an adapter's memory on each worker, and gives what the dense difference cannot:

- The start is the base in every precision: equal products cancel. A W_res in bf16 is rounded elsewhere than W in bf16,
  and a dW of some thousandths of W is below most weights' rounding step. (SmolLM2 and the SVD of a teacher, rank 16,
  bf16: dense starts .62 below the base's loss of 3.64, having lost most of what was subtracted; this starts on it.)
- Model and saved adapter are one. The artefact holds [A; A_0] and [B, -B_0] of twice the rank on the original base,
  which is PEFT's own conversion (`path_initial_model_for_weight_conversion`). What `PeftModel.from_pretrained` makes
  of it computes what is evaluated here, to the last bit. (Dense in bf16, that case: .13 off after four steps.)
- Nothing else has to know: not the casting of frozen weights, not ZeRO's shards of the base (A_0 and B_0 are buffers,
  whole on each worker), not the next run of a warm worker.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn

from trainables.base import Context
from trainables.durable import flush
from trainables.inits.parts.layers import Adapted, adapted_layers
from trainables.training.workers import Workers

FILE = "subtracted.safetensors"
"""A_0 and -B_0 beside a run's checkpoints: the next attempt may compute them on another machine, and differently."""


class Joined(nn.Linear):
    """PEFT's A or B with its start beside the weight, as further rows of A or further columns of B."""

    start: Tensor

    def __init__(self, half: nn.Linear, start: Tensor, dim: int) -> None:
        """Take over the weight of `half`; `start`, a buffer, is A_0 for A (dim 0) and -B_0 for B (dim 1)."""
        super().__init__(half.in_features, half.out_features, bias=False, device="meta")
        self.weight, self.dim = half.weight, dim
        self.register_buffer("start", start, persistent=False)
        self.train(half.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product with the weight; where it is evaluated, with weight and start in one."""
        return nn.functional.linear(x, self.weight if self.training else torch.cat([self.weight, self.start], self.dim))


class Subtracted(LoraVariant):  # type: ignore[misc]
    """The forward pass of an adapter whose start is subtracted; as in PiSSA no dropout falls on what stays.

    It is evaluated as the saved adapter will be, A and A_0 in one product and B and B_0 in another. In training they
    are apart: dropout and gradients concern A and B only.
    """

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """Return `result`, the base layer's output, with the adapter's change added."""
        a, b = module.lora_A[active_adapter], module.lora_B[active_adapter]
        change = b(a(module.lora_dropout[active_adapter](x)))
        if a.training:
            change = change + nn.functional.linear(nn.functional.linear(x, a.start), b.start)
        changed: Tensor = result + change * module.scaling[active_adapter]
        return changed

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Refuse, as `merge_safe` does, where the base class would silently do nothing."""
        raise NotImplementedError("save the adapter and load it as a plain one, of twice the rank, to merge it")


def subtract_start(part: Adapted) -> None:
    """Subtract what the adapter holds now from what it will add from here on."""
    a, b = part.down.weight.detach(), part.up.weight.detach()
    part.layer.lora_A[part.adapter] = Joined(part.down, a.clone(), 0)
    part.layer.lora_B[part.adapter] = Joined(part.up, -b, 1)
    part.layer.lora_variant[part.adapter] = Subtracted()


def subtracted(model: Any) -> dict[str, Joined]:
    """Return A and B by the names of their weights in the base model; empty if nothing is subtracted."""
    return {
        f"{part.name}.{kind}.{part.adapter}.weight": half
        for part in adapted_layers(model)
        for kind, half in (("lora_A", part.down), ("lora_B", part.up))
        if isinstance(half, Joined)
    }


def with_start(weights: Mapping[str, Tensor], halves: Mapping[str, Joined]) -> dict[str, Tensor]:
    """Return [A; A_0] and [B, -B_0] for the weights A and B of `halves`, and the others as they are."""
    joined = dict(weights)
    for name, half in halves.items():
        joined[name] = torch.cat([weights[name], half.start.to(weights[name])], half.dim)
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

    start = {name: half.start for name, half in subtracted(model).items()}
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
    beside.write_bytes(save({name: value.contiguous().cpu() for name, value in start.items()}))
    flush(beside)
    beside.replace(path)
