"""Start where `svd` starts, with the singular values shared evenly: A = sqrt(S) V^T, B = U sqrt(S).

The product is that of `svd`; the two gradients are of one size instead of S apart. A direction whose singular value
is zero (a layer that the teacher left alone) keeps A = V^T as in `svd`: with A and B both zero it could never move.
"""

from __future__ import annotations

from typing import Any

from trainables.base import Context
from trainables.inits import Init


def start(model: Any, config: Any, context: Context) -> None:
    """Copy the teacher's leading singular triplets into every LoRA layer, half of each value on either side."""
    import torch

    from trainables.inits.parts.changes import exported

    for part, found in exported(model, context, "svd_export"):
        root = found.s.sqrt()
        part.set(torch.where(root > 0, root, 1.0)[:, None] * found.vt, found.u, root)


INIT = Init(
    "svd_balanced",
    "SVD of the teacher's change, balanced",
    "the split of Meng et al. 2024 (arXiv 2404.02948, eq. 2 and 3), of dW instead of W",
    ("svd_export",),
    start,
)
