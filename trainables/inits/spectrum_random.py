"""Start at a change with the teacher's singular values in random directions: A = Q^T, B = P S.

P and Q have orthonormal columns, uniformly distributed, drawn for each layer from the run's seed and the layer's name:
neither other targets nor another rank draw others, and the directions of a low rank are the first of a higher one, as
with singular vectors. It is as large as the start of `svd` in every layer and knows nothing of where the teacher went,
so it starts above the base.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from trainables.base import Context
from trainables.inits import Init

if TYPE_CHECKING:
    from torch import Tensor


def start(model: Any, config: Any, context: Context) -> None:
    """Put the teacher's leading singular values on random directions in every LoRA layer."""
    from trainables.inits.parts.changes import exported

    for part, found in exported(model, context, "svd_export"):
        left = random_directions(len(found.u), part.rank, f"{config.seed} {part.name} left")
        right = random_directions(found.vt.shape[1], part.rank, f"{config.seed} {part.name} right")
        part.set(right.T, left, found.s)


def random_directions(size: int, count: int, key: str) -> Tensor:
    """Return `count` orthonormal columns (size, count) in fp32, uniformly distributed (Mezzadri, math-ph/0609050).

    They are drawn from `key`; the first of them do not depend on `count`.
    """
    import torch

    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    gaussian = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian.T)
    columns: Tensor = (q * r.diagonal().sign()).float()
    return columns


INIT = Init(
    "spectrum_random",
    "random directions with the teacher's spectrum",
    "a control: Haar-distributed directions (Mezzadri 2007, arXiv math-ph/0609050)",
    ("svd_export",),
    start,
)
