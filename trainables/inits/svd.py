"""Start at the best rank-r approximation of the teacher's change: A = V^T, B = U S, at every target layer."""

from __future__ import annotations

from typing import Any

from trainables.base import Context
from trainables.inits import Init


def start(model: Any, config: Any, context: Context) -> None:
    """Copy the teacher's leading singular triplets into every LoRA layer."""
    from trainables.inits.parts.changes import exported

    for part, found in exported(model, context, "svd_export"):
        part.set(found.vt, found.u, found.s)


INIT = Init("svd", "SVD of the teacher's change", "truncated SVD of dW (Eckart & Young 1936)", ("svd_export",), start)
