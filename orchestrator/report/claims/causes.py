"""Where a start from the teacher shows no effect: which of the known causes holds?

The causes, each with its criterion:
    teacher not converged   its held-out loss fell by more than 5 % of its whole fall in the last quarter of its steps
    rank too small          the truncated teacher, untrained, keeps less than half of the teacher's gain on the base
    scaling                 alpha / rank (alpha / sqrt(rank) under rsLoRA) is not 1: steps are as many times larger
    rate too high           the trained student is worse than its untrained start (its interval excludes it), or the
                            held-out loss rises at first in most runs, or the chosen rate is the lowest that was tried
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from orchestrator.record import Record
from orchestrator.report import formatting
from orchestrator.report.claims.basis import Basis, number
from orchestrator.report.claims.words import where
from orchestrator.report.sections import Grid, Section
from orchestrator.report.summary import Difference, Line
from trainables.base import Scalar

LATE, FALLING = 0.25, 0.05
KEPT = 0.5
AT_TRUNCATION = ("svd", "svd_balanced")
"""Arms whose untrained start is the truncated teacher."""
OPEN = ("supported", "interim", "under-powered by design")


@dataclass(frozen=True)
class Finding:
    """One cause looked at: whether it holds (None: not known), and the numbers that say so."""

    cause: str
    holds: bool | None
    numbers: str

    @property
    def answer(self) -> str:
        """Whether it holds, in words."""
        return "not known" if self.holds is None else "holds" if self.holds else "does not hold"


Check: TypeAlias = Callable[[Basis, str, dict[str, Scalar], pd.DataFrame], Finding]


def section(basis: Basis) -> Section | None:
    """Return the causes of every comparison that does not support a start from the teacher."""
    open_ones = [
        item for item in basis.judged.differences if item.verdict not in OPEN and basis.reads_teacher(item.arm)
    ]
    if not open_ones:
        return None
    paragraphs, rows = [], []
    for item in open_ones:
        found = list(_findings(basis, item))
        paragraphs.append(_named(item, found))
        about = [*(str(value) for value in item.group.values()), item.arm, item.verdict]
        rows += [[*about, finding.cause, finding.answer, finding.numbers] for finding in found]
    header = [*basis.family.groups, "arm", "verdict", "cause", "", "numbers"]
    size = len(CHECKS)
    grid = Grid(header=header, rows=rows, text_columns=len(header), rules=list(range(size, len(rows), size)))
    return Section(name="why-no-effect", title="Why no effect", paragraphs=paragraphs, grids=[grid])


def _findings(basis: Basis, item: Difference) -> Iterator[Finding]:
    rows = next(rows for group, rows in basis.cells(item.arm) if group == item.group)
    yield from (check(basis, item.arm, item.group, rows) for check in CHECKS)


def _named(item: Difference, found: Sequence[Finding]) -> str:
    holding = [f"{finding.cause} ({finding.numbers})" for finding in found if finding.holds]
    about = f"{where(item.group)}{item.arm} is {item.verdict}"
    if holding:
        return (
            f"{about}; of the known causes {'this holds' if len(holding) == 1 else 'these hold'}: {'; '.join(holding)}."
        )
    unknown = [finding.cause for finding in found if finding.holds is None]
    rest = f" (not known: {', '.join(unknown)})" if unknown else ""
    return f"{about}; none of the known causes holds{rest}."


# -- the causes -------------------------------------------------------------------------------------------


def teacher_not_converged(basis: Basis, arm: str, group: dict[str, Scalar], rows: pd.DataFrame) -> Finding:
    """Was the teacher's held-out loss still falling when it ended?"""
    cause = "teacher not converged"
    falls = [fall for record in basis.done("teacher") if (fall := late_fall(record)) is not None]
    if not falls:
        return Finding(cause, None, "no teacher with three evaluations or more")
    share = max(falls)
    worst = f", the most of {len(falls)} teachers" if len(falls) > 1 else ""
    return Finding(
        cause, share > FALLING, f"{100 * share:.1f} % of its fall in held-out loss came in its last quarter{worst}"
    )


def late_fall(record: Record) -> float | None:
    """Return the share of a run's whole fall in held-out loss that came in the last quarter of its steps."""
    steps, losses = _evaluations(record)
    if len(steps) < 3:
        return None
    begins = max(at for at, step in enumerate(steps) if step <= (1 - LATE) * steps[-1])
    whole = losses[0] - losses[-1]
    return (losses[begins] - losses[-1]) / whole if whole > 0 else 0.0


def rank_too_small(basis: Basis, arm: str, group: dict[str, Scalar], rows: pd.DataFrame) -> Finding:
    """Does the truncated teacher lose most of what the teacher gained?"""
    line = basis.line("untrained", group)
    kept = line.numbers.get("gap_closed") if line else None
    if line is None or kept is None:
        return Finding("rank too small", None, "no truncated teacher was evaluated, or the teacher gained nothing")
    energy = line.numbers.get("energy")
    beside = f" and {energy.mean:.2f} of the energy" if energy else ""
    numbers = f"the truncated teacher keeps {100 * kept.mean:.0f} % of the teacher's gain{beside}"
    return Finding("rank too small", kept.mean < KEPT, numbers)


def scaling(basis: Basis, arm: str, group: dict[str, Scalar], rows: pd.DataFrame) -> Finding:
    """Is the adapter's scaling other than 1?"""
    found = {_scaling(row) for _, row in rows.iterrows()} - {None}
    if not found:
        return Finding("scaling", None, "rank or alpha are not in the table")
    told = ", ".join(f"{value:.3g}" for value in sorted(value for value in found if value is not None))
    return Finding("scaling", any(value is not None and abs(value - 1) > 1e-9 for value in found), f"scaling {told}")


def _scaling(row: pd.Series[Any]) -> float | None:
    rank, alpha = row.get("rank"), row.get("lora_alpha")
    if pd.isna(rank):
        return None
    numerator = float(rank) if alpha is None or pd.isna(alpha) else float(alpha)
    stabilised = row.get("use_rslora")
    return numerator / (math.sqrt(float(rank)) if pd.notna(stabilised) and bool(stabilised) else float(rank))


def rate_too_high(basis: Basis, arm: str, group: dict[str, Scalar], rows: pd.DataFrame) -> Finding:
    """Did training make the student worse, or was only the lowest of the rates good enough?"""
    signs = [
        sign for look in (_worse_than_start, _rises_at_first, _lowest_rate) if (sign := look(basis, arm, group, rows))
    ]
    known = [holds for holds, _ in signs]
    if not known:
        return Finding("rate too high", None, "no untrained start, no evaluations and no rates to compare")
    held = [text for holds, text in signs if holds]
    return Finding("rate too high", any(known), "; ".join(held or [text for _, text in signs]))


Sign: TypeAlias = tuple[bool, str] | None


def _worse_than_start(basis: Basis, arm: str, group: dict[str, Scalar], rows: pd.DataFrame) -> Sign:
    metric = basis.family.comparison.metric
    key = {"test_accuracy": "accuracy"}.get(metric, metric)
    start, end = basis.line("untrained", group), basis.line("arm", group, arm)
    if arm not in AT_TRUNCATION or not _has(start, key) or not _has(end, key):
        return None
    assert start is not None
    assert end is not None
    before, after = start.numbers[key], end.numbers[key]
    higher = basis.family.comparison.higher_is_better
    bound = after.high if higher else after.low
    nearest = after.mean if bound is None else bound
    is_worse = nearest < before.mean if higher else nearest > before.mean
    return is_worse, f"trained {formatting.number(after)} against {formatting.number(before)} untrained"


def _has(line: Line | None, key: str) -> bool:
    return line is not None and key in line.numbers


def _rises_at_first(basis: Basis, arm: str, group: dict[str, Scalar], rows: pd.DataFrame) -> Sign:
    curves = [_evaluations(basis.records[run])[1] for run in rows["run_id"] if run in basis.records]
    curves = [losses for losses in curves if len(losses) > 1]
    if not curves:
        return None
    rising = sum(losses[1] > losses[0] for losses in curves)
    return rising * 2 > len(curves), f"held-out loss rose at first in {rising} of {len(curves)} runs"


def _lowest_rate(basis: Basis, arm: str, group: dict[str, Scalar], rows: pd.DataFrame) -> Sign:
    tuning = basis.family.rows_of(arm, basis.family.tuning)
    for column, value in group.items():
        tuning = tuning[tuning[column] == value] if column in tuning else tuning
    if "learning_rate" not in tuning or "learning_rate" not in rows:
        return None
    tried, used = sorted(set(tuning["learning_rate"].dropna())), sorted(set(rows["learning_rate"].dropna()))
    if len(tried) < 2 or not used:
        return None
    return used[0] <= tried[0], f"rate {used[0]:g}, the lowest tried is {tried[0]:g}"


def _evaluations(record: Record) -> tuple[list[float], list[float]]:
    """Return steps and held-out losses of a run's evaluations."""
    rows = [(row["step"], number(row["eval_loss"])) for row in record.history_rows() if "eval_loss" in row]
    known = [(step, loss) for step, loss in rows if loss is not None and math.isfinite(loss)]
    return [step for step, _ in known], [loss for _, loss in known]


CHECKS: Sequence[Check] = (teacher_not_converged, rank_too_small, scaling, rate_too_high)
