"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """One thing looked at: fine, or a note with the way out."""

    topic: str
    is_ok: bool
    text: str
