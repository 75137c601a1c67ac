"""The answers of reasoning-gym's procedural tasks, judged by the verifier that each of them brings along."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from trainables.tasks import Task

FULL_SCORE = 1.0
"""Verifiers give part of the score to answers that only contain the right one; that is not right."""


def check(given: str, reference: str, metadata: Mapping[str, Any]) -> bool:
    """Say whether the verifier of `metadata["source_dataset"]` gives the answer its full score."""
    entry = {"question": metadata.get("question", ""), "answer": reference, "metadata": dict(metadata)}
    return bool(_verifier(metadata["source_dataset"])(answer=given.strip(), entry=entry) >= FULL_SCORE)


@functools.cache
def _verifier(name: str) -> Any:
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(name)


TASK = Task("reasoning_gym", "the task's own verifier", check)
