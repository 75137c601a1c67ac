"""How the claims write numbers, tests and groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from orchestrator import statistics
from orchestrator.report import formatting
from orchestrator.report.differences import number
from trainables.base import Scalar


def estimate(paired: statistics.Paired, *, scale: float = 1.0) -> str:
    """Return a mean difference with its interval, signed."""
    return formatting.with_bounds(number(paired.estimate), scale=scale, signed=True) if paired.estimate.n else "–"


def p_words(p: float | None) -> str:
    """Return a p value, a dash for none."""
    return formatting.p_value(p)


def where(group: Mapping[str, Scalar]) -> str:
    """Return "rank 16: "; empty where nothing splits the family."""
    text = formatting.group(group)
    return f"{text}: " if text else ""


def told_by_arm(values: Mapping[str, str]) -> str:
    """Return "svd 20; random 40"; what three arms or more have in common is told once, at the end."""
    known = {arm: value for arm, value in values.items() if value}
    usual, count = Counter(known.values()).most_common(1)[0]
    told = [f"{arm} {value}" for arm, value in known.items() if count < 3 or value != usual]
    return "; ".join([*told, f"the others {usual}"] if count >= 3 else told)


def listed(values: list[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}" if values else ""
