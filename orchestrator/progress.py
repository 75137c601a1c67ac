"""Durations and curves in a few characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def duration(seconds: float) -> str:
    """Return a duration for people: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Return the values as a line of block characters, at most `width` of them, lowest to highest."""
    finite = [value for value in values if math.isfinite(value)]
    step = max(1, -(-len(finite) // width))
    chosen = finite[::step]
    low, high = min(chosen, default=0.0), max(chosen, default=0.0)
    span = (high - low) or 1.0
    return "".join(BARS[min(int((value - low) / span * len(BARS)), len(BARS) - 1)] for value in chosen)
