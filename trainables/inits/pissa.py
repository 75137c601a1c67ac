"""PiSSA: start at the base with the leading singular triplets of the base weight itself in the adapter.

A and B are those of PEFT's implementation, called layer by layer: A = sqrt(S / s) V^T, B = U sqrt(S / s) of W = U S V^T
with the scaling s. PEFT would leave W - s B A as the base weight; here W stays and the product is subtracted beside it
(`parts/subtraction.py`).

PEFT decomposes W wholly: 15 s of one core for SmolLM2-135M, and far more than a student's training above a few thousand
rows. A warm worker keeps the factors for the next run of the same base and rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainables.base import Context, kept_of_last
from trainables.inits import Init

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.inits.parts.layers import Adapted

CACHE = "pissa"


def start(model: Any, config: Any, context: Context) -> None:
    """Let PEFT fill every LoRA layer, put the base weight back, and subtract the product.

    Raises RuntimeError if a weight is an empty shard.
    """
    from trainables.inits.parts.layers import adapted_layers, fill
    from trainables.inits.parts.subtraction import subtract_start

    # Those of the last base, rank and scaling only: they take as much memory as an adapter.
    subject = (context.inputs["base_model"], config.rank, config.alpha, config.use_rslora)
    known = kept_of_last(context.cache, CACHE, subject)
    for part in adapted_layers(model):
        check_whole(part)
        if part.name not in known:
            known[part.name] = decomposed(part)
        a, b = known[part.name]
        fill(part.down.weight.data, a, f"{part.name}.lora_A")
        fill(part.up.weight.data, b, f"{part.name}.lora_B")
        subtract_start(part)


def check_whole(part: Adapted) -> None:
    """Raise RuntimeError unless the layer's weight, A and B have the shapes that PEFT takes them to have."""
    from trainables.inits.parts.layers import check_shape

    layer = part.layer
    shape = (layer.in_features, layer.out_features)
    check_shape(part.down.weight, (part.rank, layer.in_features), f"{part.name}.lora_A")
    check_shape(part.up.weight, (layer.out_features, part.rank), f"{part.name}.lora_B")
    check_shape(layer.get_base_layer().weight, shape if layer.fan_in_fan_out else shape[::-1], f"{part.name}.weight")


def decomposed(part: Adapted) -> tuple[Tensor, Tensor]:
    """Return PEFT's A and B for a layer, on the CPU; the layer's own weight is as it was afterwards."""
    weight = part.layer.get_base_layer().weight
    original = weight.data
    part.layer.pissa_init(part.adapter, "pissa")
    weight.data = original
    return part.down.weight.detach().cpu().clone(), part.up.weight.detach().cpu().clone()


INIT = Init(
    "pissa",
    "PiSSA",
    "Meng et al. 2024, arXiv 2404.02948; PEFT's init_lora_weights='pissa'",
    (),
    start,
    is_subtracted=True,
)
