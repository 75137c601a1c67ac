"""How numbers are written: with no digit that the interval does not justify.

The last digit shown is the first significant one of the interval's half width (two where that begins with 1).
A single value has no interval; it gets three digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrator.report.measures import Measure
from orchestrator.report.summary import Line, Number, Steps, Summary
from trainables.base import Scalar

NOTHING = "–"
MOST_DECIMALS = 6
"""Of a single value; what is smaller is rounding of the arithmetic."""
MINUS = "−"


def decimals(half_width: float) -> int:
    """Return how many decimals an interval of this half width justifies, 0 to 4."""
    if not math.isfinite(half_width) or half_width <= 0:
        return 3
    exponent = math.floor(math.log10(half_width))
    leads_with_one = half_width < 2 * 10.0**exponent
    return min(4, max(0, -exponent + int(leads_with_one)))


def number(value: Number | None, *, scale: float = 1.0, places: int | None = None, signed: bool = False) -> str:
    """Return "0.941 ± 0.012", or "0.94 [0.90, 1.02]" where the interval is not symmetric; a dash for nothing.

    A value without an interval, or with one of no width, gets `places` decimals, or three digits.
    """
    if value is None or not math.isfinite(value.mean):
        return NOTHING
    mean = value.mean * scale
    if not has_width(value):
        return _plain(mean, _decimals_of_three(mean) if places is None else places, signed)
    assert value.low is not None
    assert value.high is not None
    low, high = value.low * scale, value.high * scale
    if math.isclose(high - mean, mean - low, rel_tol=1e-6):
        places = decimals((high - low) / 2)
        half = _plain(high - mean, places)
        return _plain(mean, places, signed) + (f" ± {half}" if half.strip("0.") else "")
    return with_bounds(value, scale=scale, signed=signed)


def with_bounds(value: Number | None, *, scale: float = 1.0, signed: bool = False) -> str:
    """Return "−0.21 [−0.23, −0.18]"; infinite ends are written out."""
    if value is None or value.low is None or value.high is None or not has_width(value):
        return number(value, scale=scale, signed=signed)
    low, high = value.low * scale, value.high * scale
    places = decimals((high - low) / 2)
    return f"{_plain(value.mean * scale, places, signed)} [{_plain(low, places)}, {_plain(high, places)}]"


def has_width(value: Number) -> bool:
    """Say whether there is an interval, and one wider than rounding."""
    if value.low is None or value.high is None:
        return False
    return value.high - value.low > 1e-6 * abs(value.mean)


def measure(line: Line, column: Measure) -> str:
    """Return one cell of the comparison; a loss that no run got as far as says what happened instead."""
    value = line.numbers.get(column.key)
    if value is None:
        return outcome(line) if line.done == 0 and column.form == "loss" else NOTHING
    if column.form == "percent":
        return number(value, scale=100, places=column.places)
    if column.form == "count":
        return f"{value.mean:,.0f}"
    if column.form == "seconds":
        return number(value, places=0 if value.mean >= 10 else 1)
    return number(value)


def steps(value: Steps | None) -> str:
    """Return the median steps to target, "> 20" where the middle run never got there, and how many did."""
    if value is None:
        return NOTHING
    text = f"> {value.horizon}" if value.median is None else f"{value.median:g}"
    return text if value.reached == value.n else f"{text} ({value.reached}/{value.n})"


def count(line: Line, *, is_narrow: bool = False) -> str:
    """Return n, and what became of the other planned runs: "6 (1 OOM)"; "6/7", "0/7 OOM" where there is no room."""
    if is_narrow:
        share = str(line.done) if line.done == line.planned else f"{line.done}/{line.planned}"
        return share if line.done else f"{share} {outcome(line)}"
    lost = ", ".join(f"{number} {WORDS.get(status, status)}" for status, number in line.lost.items())
    return f"{line.done} ({lost})" if lost else str(line.done)


WORDS = {"oom": "OOM"}
"""Statuses that are written otherwise for people."""


def outcome(line: Line) -> str:
    """Return what became of the runs that are not done: OOM, diverged, failed, pending."""
    return ", ".join(WORDS.get(status, status) for status in line.lost) or NOTHING


def p_value(p: float | None) -> str:
    """Return a p value with the digits that matter to a decision."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


METHODS = {"westfall-young": "Westfall-Young", "holm": "Holm"}
"""How p is adjusted, by the names of those who showed it."""


def adjusted(summary: Summary) -> str:
    """Return how the p of a report were adjusted, and why so: "p adjusted by Holm over 3 comparisons (...)"."""
    used = dict.fromkeys(item.adjusted_by for item in summary.differences if item.p_adjusted is not None)
    names = [METHODS[method] for method in used or (summary.method,) if method in METHODS]
    if not names:
        return "one comparison: p is not adjusted"
    why = f" ({summary.method_reason})" if not used or summary.method in used else " (lost runs left some without all)"
    return f"p adjusted by {' and '.join(names)} over {summary.family} comparisons{why}"


def group(values: Mapping[str, Scalar]) -> str:
    """Return "rank 16", "rank 16, fold 2"; empty where nothing splits the family."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _plain(value: float, places: int, signed: bool = False) -> str:
    if value == 0 or (places >= MOST_DECIMALS and abs(value) < 0.5 * 10**-places):
        return "0"
    text = f"{value:+.{places}f}" if signed else f"{value:.{places}f}"
    return text.replace("-", MINUS).replace("inf", "∞")


def _decimals_of_three(value: float) -> int:
    return 0 if value == 0 else min(MOST_DECIMALS, max(0, 2 - math.floor(math.log10(abs(value)))))
