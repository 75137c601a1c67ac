"""An answer is right if it says what the reference says, whatever its case and spacing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.tasks import Task


def normalised(text: str) -> str:
    """Return the text with case folded, runs of white space made one space, and a final full stop dropped."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def check(given: str, reference: str, metadata: Mapping[str, Any]) -> bool:
    """Say whether the two texts are the same once normalised."""
    return normalised(given) == normalised(reference)


TASK = Task("exact", "same text, but for case and white space", check)
