"""Start as `svd` does, from a teacher that was trained on something else.

What `svd` has over this is due to the teacher's task; what this has over `random` is due to any trained direction at
all. `wrong_export` is the export of such a teacher: a stage of its own in the study, of another dataset.
"""

from __future__ import annotations

from typing import Any

from trainables.base import Context
from trainables.inits import Init


def start(model: Any, config: Any, context: Context) -> None:
    """Copy the wrong teacher's leading singular triplets into every LoRA layer."""
    from trainables.inits.parts.changes import exported

    for part, found in exported(model, context, "wrong_export"):
        part.set(found.vt, found.u, found.s)


INIT = Init(
    "wrong_teacher",
    "SVD of another task's teacher",
    "a control: svd of a teacher trained on other data",
    ("wrong_export",),
    start,
)
