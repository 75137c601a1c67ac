"""The answer of `compare`: a table for people, 80 columns wide or less, and one JSON object for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.compare.dependence import Dependence
from orchestrator.compare.judge import Answer, Result
from orchestrator.compare.pairing import Side, Steps
from orchestrator.report import formatting
from orchestrator.report.summary import Number
from orchestrator.statistics import Paired

COLOURS = {"supported": "green", "contradicted": "red", "equivalent": "cyan", "interim": "yellow"}


def show(answer: Answer, console: Console) -> None:
    """Print title, table, legend, one sentence a comparison, and the notes."""
    request = answer.request
    better = "higher" if request.is_higher_better else "lower"
    console.print(Text(f"{request.outcome} by {request.arm}, against {request.baseline} ({better} is better)", "bold"))
    console.print(_table(answer))
    console.print(Text(_legend(answer), style="dim"))
    for result in answer.results:
        console.print()
        sentence = Text(result.sentence)
        sentence.highlight_words([result.verdict], f"bold {COLOURS.get(result.verdict, '')}".strip())
        console.print(sentence)
    for dependence in answer.dependences:
        console.print()
        console.print(Text(_dependence(answer, dependence)))
    if answer.notes:
        console.print()
    for note in answer.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def as_json(answer: Answer) -> dict[str, Any]:
    """Return the answer for a program; infinite ends and undefined numbers are null."""
    request = answer.request
    return {
        "table": request.table,
        "outcome": request.outcome,
        "metric": request.metric,
        "arm": request.arm,
        "baseline": request.baseline,
        "pair": list(request.pair),
        "higher_is_better": request.is_higher_better,
        "alpha": request.alpha,
        "margin": request.margin,
        "looks": [{"n": look.n, "level": look.level} for look in answer.looks],
        "family": {"size": len(answer.results), "method": answer.method, "reason": answer.reason},
        "comparisons": [_result(result) for result in answer.results],
        "dependences": [_dependence_numbers(dependence) for dependence in answer.dependences],
        "notes": list(answer.notes),
    }


def _table(answer: Answer) -> Table:
    """Return the comparisons as rows; with a target the steps of both arms take the place of p and d_z, for room."""
    request = answer.request
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in (*request.by, request.arm):
        drawn.add_column(name, overflow="fold", min_width=min(12, len(name)))
    more = ("p", "adj. p", "d_z") if request.target is None else ("adj. p",)
    for title in ("n", *(() if request.target is None else ("steps", "baseline")), "difference", *more):
        drawn.add_column(title, justify="right", no_wrap=True)
    drawn.add_column("verdict", no_wrap=True)
    for result in answer.results:
        drawn.add_row(*(str(value) for value in result.group.values()), result.arm, *_row(result))
    return drawn


def _row(result: Result) -> Iterator[str]:
    yield str(result.n)
    if result.steps is not None:
        yield _reached(result.steps.arm, result.steps)
        yield _reached(result.steps.baseline, result.steps)
    yield formatting.with_bounds(_number(result.paired), signed=True) if result.n else formatting.NOTHING
    if result.steps is None:
        yield formatting.p_value(result.p)
    yield formatting.p_value(result.p_adjusted)
    if result.steps is None:
        d_z = result.paired.d_z
        yield formatting.NOTHING if d_z is None else f"{d_z:.2f}".replace("-", formatting.MINUS)
    yield result.verdict.removesuffix(" by design")


def _reached(side: Side, steps: Steps) -> str:
    """Return the median, "> 40" where it is censored, and how many runs got there if not all did."""
    median = f"> {steps.horizon:g}" if side.median is None else f"{side.median:g}"
    return median if side.reached == side.n else f"{median} ({side.reached}/{side.n})"


def _legend(answer: Answer) -> str:
    methods = sorted({r.paired.estimate.interval.method for r in answer.results if r.paired.estimate.interval})
    how = f"95 % interval of each comparison alone: {', '.join(methods)}; " if methods else ""
    exact = "exact" if all(result.paired.is_exact for result in answer.results) else "Monte Carlo"
    adjusted = {"none": "", "holm": "Holm: ", "westfall-young": "Westfall-Young: "}[answer.method]
    steps = ""
    if answer.request.target is not None:
        steps = "; steps: Kaplan-Meier median; the difference is of means up to the horizon"
    return f"n replicates; {how}p: sign flips, {exact}, two-sided; adjusted p: {adjusted}{answer.reason}{steps}"


def _dependence(answer: Answer, dependence: Dependence) -> str:
    trend = dependence.found.trend
    change = formatting.with_bounds(_number(trend), signed=True)
    return (
        f"Does {dependence.arm} − {answer.request.baseline} depend on {dependence.by}? In any way: p "
        f"{formatting.p_value(dependence.found.p)}; per doubling {change}, p {formatting.p_value(trend.p)} "
        f"({dependence.n} replicates at {len(dependence.values)} values; exploratory)."
    )


def _dependence_numbers(dependence: Dependence) -> dict[str, Any]:
    trend = dependence.found.trend
    interval = trend.estimate.interval
    return {
        "arm": dependence.arm,
        "by": dependence.by,
        "values": list(dependence.values),
        "n": dependence.n,
        "p": dependence.found.p,
        "change_per_doubling": _finite(trend.estimate.mean),
        "p_of_change": trend.p,
        "interval": [_finite(interval.low), _finite(interval.high)] if interval else None,
    }


def _result(result: Result) -> dict[str, Any]:
    interval, estimate = result.paired.estimate.interval, result.paired.estimate
    found: dict[str, Any] = {
        "group": result.group,
        "arm": result.arm,
        "n": result.n,
        "pairs": result.pairs,
        "mean_difference": _finite(estimate.mean),
        "interval": [_finite(interval.low), _finite(interval.high)] if interval else None,
        "interval_level": interval.level if interval else None,
        "interval_method": interval.method if interval else None,
        "p_exact": result.p,
        "is_exact": result.paired.is_exact,
        "p_adjusted": result.p_adjusted,
        "p_equivalent": result.p_equivalent,
        "d_z": result.paired.d_z,
        "verdict": result.verdict,
        "sentence": result.sentence,
    }
    if result.steps is not None:
        found["steps_to_target"] = _steps(result.steps)
    return found


def _steps(steps: Steps) -> dict[str, Any]:
    return {
        "horizon": steps.horizon,
        "arm": _side(steps.arm, steps.horizon),
        "baseline": _side(steps.baseline, steps.horizon),
        "mean_difference_bounds": list(steps.bounds) if steps.bounds else None,
    }


def _side(side: Side, horizon: float) -> dict[str, Any]:
    runs = [
        {
            "pair": list(key),
            "first_hit": hit.by if hit.by is not None and hit.by <= horizon else None,
            "after": hit.after if hit.by is not None and hit.by <= horizon else None,
            "censored_at": None if hit.by is not None and hit.by <= horizon else horizon,
            "is_diverged": hit.is_diverged,
        }
        for key, hits in side.hits.items()
        for hit in hits
    ]
    return {
        "reached": side.reached,
        "n": side.n,
        "median": side.median,
        "restricted_mean": _finite(side.restricted_mean),
        "runs": runs,
    }


def _number(paired: Paired) -> Number:
    estimate = paired.estimate
    low, high = (estimate.interval.low, estimate.interval.high) if estimate.interval else (None, None)
    return Number(mean=estimate.mean, n=estimate.n, low=low, high=high)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
