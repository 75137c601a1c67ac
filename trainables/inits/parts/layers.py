"""The LoRA layers of a model, and how an init writes into them.

An adapter contributes scaling * B A, where the scaling is alpha / r, or alpha / sqrt(r) with rsLoRA: B is divided by
the layer's own scaling, here and nowhere else, or no student would start where its factors say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor


@dataclass(frozen=True)
class Adapted:
    """An adapter on one layer: the layer's name in the base model, PEFT's layer, and the adapter's name there."""

    name: str
    layer: Any
    adapter: str

    @property
    def rank(self) -> int:
        """The adapter's rank in this layer."""
        return int(self.layer.r[self.adapter])

    @property
    def scaling(self) -> float:
        """The factor of B A in this layer."""
        return float(self.layer.scaling[self.adapter])

    @property
    def down(self) -> Any:
        """PEFT's module A, whose weight is (r, in)."""
        return self.layer.lora_A[self.adapter]

    @property
    def up(self) -> Any:
        """PEFT's module B, whose weight is (out, r)."""
        return self.layer.lora_B[self.adapter]

    def set(self, a: Tensor, directions: Tensor, sizes: Tensor) -> None:
        """Start at the change `directions` diag(`sizes`) `a`: (out, r), (r) and (r, in), whatever the scaling.

        Raises RuntimeError if the adapter's weights have other shapes (`fill`).
        """
        with torch.no_grad():
            fill(self.down.weight, a, f"{self.name}.lora_A")
            fill(self.up.weight, directions * (sizes / self.scaling), f"{self.name}.lora_B")


def adapted_layers(model: Any) -> list[Adapted]:
    """Return the adapters on the layers of a PeftModel; raises RuntimeError if there is none to start."""
    base = model.get_base_model()
    layers = [(name, layer) for name, layer in base.named_modules() if isinstance(layer, LoraLayer)]
    if not layers:
        raise RuntimeError("the model has no LoRA layer: add the adapter before the init")
    return [Adapted(name, layer, adapter) for name, layer in layers for adapter in layer.lora_A]


def fill(weight: Tensor, values: Tensor, name: str) -> None:
    """Copy `values` into a LoRA weight of the same shape; raises RuntimeError if it has another one.

    `copy_` alone would broadcast, and an empty shard must not be mistaken for a filled weight.
    """
    check_shape(weight, tuple(values.shape), name)
    weight.copy_(values)


def check_shape(weight: Tensor, shape: tuple[int, ...], name: str) -> None:
    """Raise RuntimeError unless a weight has this shape.

    It has [0] where DeepSpeed's ZeRO stage 3 has cut it into shards: it leaves every parameter so outside a gather.
    """
    if tuple(weight.shape) != shape:
        shard = "; gather ZeRO-3's parameters (deepspeed.zero.GatheredParameters) before the init" * (
            not weight.numel()
        )
        raise RuntimeError(f"{name} has the shape {list(weight.shape)} instead of {list(shape)}{shard}")
