"""PiSSA: start at the base with the leading singular triplets of the base weight itself in the adapter.

A and B are those of PEFT's implementation, called layer by layer: A = sqrt(S / s) V^T, B = U sqrt(S / s) of W = U S V^T
with the scaling s. PEFT would leave W - s B A as the base weight; here W stays and the product is subtracted beside it
(`parts/subtraction.py`). PEFT decomposes W wholly, once per run: dear above a few thousand rows.
"""

from __future__ import annotations

from typing import Any

from trainables.base import Context
from trainables.inits import Init


def start(model: Any, config: Any, context: Context) -> None:
    """Let PEFT fill every LoRA layer, put the base weight back, and subtract the product.

    Raises RuntimeError if a weight is an empty shard.
    """
    from trainables.inits.parts.layers import adapted_layers, check_shape
    from trainables.inits.parts.subtraction import subtract_start

    for part in adapted_layers(model):
        weight, layer = part.layer.get_base_layer().weight, part.layer
        shape = (layer.in_features, layer.out_features)
        check_shape(weight, shape if layer.fan_in_fan_out else shape[::-1], f"{part.name}.base_layer")
        check_shape(part.down.weight, (part.rank, layer.in_features), f"{part.name}.lora_A")
        check_shape(part.up.weight, (layer.out_features, part.rank), f"{part.name}.lora_B")
        original = weight.data
        layer.pissa_init(part.adapter, "pissa")
        weight.data = original
        subtract_start(part)


INIT = Init("pissa", "PiSSA", "Meng et al. 2024, arXiv 2404.02948; PEFT's init_lora_weights='pissa'", (), start)
