"""Start at the best rank-r approximation of what a LoRA of high rank has learnt: A = V^T, B = U S of its s B A.

LoRA-Squeeze with training after the compression ("Cont-Squeeze"), and a teacher that needs no full fine-tuning. The
paper's randomised SVD is an exact one here; its factors are split as those of `svd`, so that the two arms differ in
the teacher only. The high-rank student is an input: its last adapter, whatever init it started from.
"""

from __future__ import annotations

from typing import Any

from trainables.base import Context
from trainables.inits import Init


def start(model: Any, config: Any, context: Context) -> None:
    """Copy the leading singular triplets of the high-rank student's change into every LoRA layer."""
    from trainables.inits.parts.changes import learnt

    for part, found in learnt(model, context, "high_rank_student"):
        part.set(found.vt, found.u, found.s)


INIT = Init(
    "lora_squeeze", "LoRA-Squeeze", "Vulic et al. 2026, LoRA-Squeeze, arXiv 2602.10993", ("high_rank_student",), start
)
