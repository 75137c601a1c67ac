"""Start at the best rank-r approximation of the teacher's change: A = V^T, B = U S, at every target layer.

An adapter contributes scaling * B A, where the scaling is alpha / r, or alpha / sqrt(r) with rsLoRA: B is divided
by the layer's own scaling, or the student would not start where the factors say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainables.base import Context, InputError
from trainables.inits import Init

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.linalg.factors import Factors


def start(model: Any, config: Any, context: Context) -> None:
    """Copy the teacher's leading singular triplets into every LoRA layer.

    Raises InputError if the export does not fit the student, RuntimeError if a LoRA weight is an empty shard (`fill`),
    or if there is no LoRA layer to start at all.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    from trainables.linalg.factors import load_factors

    factors = load_factors(context.inputs["svd_export"])
    layers = {name: layer for name, layer in model.get_base_model().named_modules() if isinstance(layer, LoraLayer)}
    if not layers:
        raise RuntimeError("the model has no LoRA layer: add the adapter before the init")
    for name, layer in layers.items():
        if name not in factors:
            raise InputError(f"the export has no factors for {name}: give svd_export and student the same targets")
        for adapter, lora_a in layer.lora_A.items():
            found = leading(factors[name], layer.r[adapter], name)
            lora_b = layer.lora_B[adapter]
            with torch.no_grad():
                fill(lora_a.weight, found.vt, f"{name}.lora_A")
                fill(lora_b.weight, found.u * (found.s / layer.scaling[adapter]), f"{name}.lora_B")


def fill(weight: Tensor, values: Tensor, name: str) -> None:
    """Copy `values` into a LoRA weight of the same shape; raises RuntimeError if it has another one.

    `copy_` alone would broadcast, and a shard of shape [0], as DeepSpeed's ZeRO stage 3 leaves every parameter outside
    a gather, must not be mistaken for a filled weight.
    """
    if weight.shape != values.shape:
        shard = "; gather ZeRO-3's parameters (deepspeed.zero.GatheredParameters) before the init" * (
            not weight.numel()
        )
        raise RuntimeError(f"{name} has the shape {list(weight.shape)} instead of {list(values.shape)}{shard}")
    weight.copy_(values)


def leading(factors: Factors, rank: int, layer: str) -> Factors:
    """Return the leading `rank` triplets; raises InputError if the export holds fewer."""
    if rank > factors.rank:
        raise InputError(
            f"student rank {rank} is above the {factors.rank} that svd_export kept of {layer}; raise svd_export.rank"
        )
    return factors.truncated(rank)


INIT = Init("svd", "SVD of the teacher's change", "truncated SVD of dW (Eckart & Young 1936)", ("svd_export",), start)
