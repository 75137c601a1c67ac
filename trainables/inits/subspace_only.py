"""Start at the base, looking where the teacher went: A = V^T, B = 0.

What `svd` has over this is its lower start; what this has over `random` is the choice of the subspace.
"""

from __future__ import annotations

from typing import Any

from trainables.base import Context
from trainables.inits import Init


def start(model: Any, config: Any, context: Context) -> None:
    """Copy the teacher's leading right singular vectors into A of every LoRA layer; B is zero."""
    import torch

    from trainables.inits.parts.changes import exported

    for part, found in exported(model, context, "svd_export"):
        part.set(found.vt, found.u, torch.zeros_like(found.s))


INIT = Init(
    "subspace_only",
    "the teacher's subspace, B = 0",
    "a control: the A of svd with the B of random (Hu et al., arXiv 2106.09685)",
    ("svd_export",),
    start,
)
