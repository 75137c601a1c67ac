"""Start at the base with the factors of `svd` in the adapter: their product is subtracted again.

What PiSSA does with W, done with dW: the student has the teacher's directions in A and B, both of them at work from
the first step, and the function of the base. See `parts/subtraction.py` for how, and for what is saved.
"""

from __future__ import annotations

from typing import Any

from trainables.base import Context
from trainables.inits import Init


def start(model: Any, config: Any, context: Context) -> None:
    """Copy the teacher's leading singular triplets into every LoRA layer, and subtract their product."""
    from trainables.inits.parts.changes import exported
    from trainables.inits.parts.subtraction import subtract_start

    for part, found in exported(model, context, "svd_export"):
        part.set(found.vt, found.u, found.s)
        subtract_start(part)


INIT = Init(
    "svd_subtracted",
    "SVD of the teacher's change, subtracted from the base",
    "the subtraction of PiSSA (Meng et al. 2024, arXiv 2404.02948), of dW instead of W",
    ("svd_export",),
    start,
    is_subtracted=True,
)
