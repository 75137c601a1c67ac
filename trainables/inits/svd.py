"""Start at the best rank-r approximation of the teacher's change: A = V^T, B = U S, at every target layer.

An adapter contributes scaling * B A, where the scaling is alpha / r, or alpha / sqrt(r) with rsLoRA: B is divided
by the layer's own scaling, or the student would not start where the factors say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainables.base import Context, InputError
from trainables.inits import Init

if TYPE_CHECKING:
    from trainables.linalg.factors import Factors


def start(model: Any, config: Any, context: Context) -> None:
    """Copy the teacher's leading singular triplets into every LoRA layer; raises InputError if they do not fit."""
    import torch
    from peft.tuners.lora import LoraLayer

    from trainables.linalg.factors import load_factors

    factors = load_factors(context.inputs["svd_export"])
    layers = {name: layer for name, layer in model.get_base_model().named_modules() if isinstance(layer, LoraLayer)}
    for name, layer in layers.items():
        if name not in factors:
            raise InputError(f"the export has no factors for {name}: give svd_export and student the same targets")
        for adapter, lora_a in layer.lora_A.items():
            found = leading(factors[name], layer.r[adapter], name)
            with torch.no_grad():
                lora_a.weight.copy_(found.vt)
                layer.lora_B[adapter].weight.copy_(found.u * (found.s / layer.scaling[adapter]))


def leading(factors: Factors, rank: int, layer: str) -> Factors:
    """Return the leading `rank` triplets; raises InputError if the export holds fewer."""
    if rank > factors.rank:
        raise InputError(
            f"student rank {rank} is above the {factors.rank} that svd_export kept of {layer}; raise svd_export.rank"
        )
    return factors.truncated(rank)


INIT = Init("svd", "SVD of the teacher's change", "truncated SVD of dW (Eckart & Young 1936)", ("svd_export",), start)
