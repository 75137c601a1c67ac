"""What the records say of each point of a search: open, done with its objectives, or ended otherwise.

A pure function of plan and records. A point is judged by the mean over its runs; not while one of them is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from orchestrator.errors import UserError
from orchestrator.plan import Plan
from orchestrator.record import Record
from orchestrator.results import Tested, test_metrics
from orchestrator.space import Asked, Objective, Search, Values

State: TypeAlias = Literal["open", "done", "diverged", "pruned", "failed"]
BAD = ("failed", "oom", "killed", "skipped")
HELD_OUT = "eval_loss"


@dataclass(frozen=True)
class Point:
    """A point and what came of it: `values` of the objectives where it is done; `curve`: held-out loss by step.

    The curve is the mean over the runs that have come as far.
    """

    asked: Asked
    state: State
    values: tuple[float, ...] = ()
    curve: Mapping[int, float] | None = None
    steps: int = 0
    """Training steps that its runs have taken."""

    @property
    def number(self) -> int:
        """Its place in the order of asking."""
        return self.asked.number

    @property
    def at(self) -> Values:
        """Its value on every axis."""
        return self.asked.values


def points_of(plan: Plan, records: Mapping[str, Record]) -> list[Point]:
    """Return every point that was asked for, in order; UserError for an objective that nothing measures."""
    search = plan.study.search
    assert search is not None
    tested, evaluations = test_metrics(plan, records), _evaluations(plan)
    return [_point(one, search, records, tested, evaluations) for one in plan.points]


def best_of(points: Sequence[Point], search: Search) -> Point | None:
    """Return the point that is best by the first objective, of equal ones the first; None while none is done."""
    done = [point for point in points if point.state == "done"]
    sign = -1 if search.objectives[0].higher_is_better else 1
    return min(done, key=lambda point: (sign * point.values[0], point.number), default=None)


def front(points: Sequence[Point], search: Search) -> list[Point]:
    """Return the points that no other beats in one objective without losing in another, by the first objective."""
    signs = [-1 if one.higher_is_better else 1 for one in search.objectives]
    costs = {p.number: tuple(s * v for s, v in zip(signs, p.values, strict=True)) for p in points if p.state == "done"}
    kept = [
        point
        for point in points
        if point.number in costs and not any(_dominates(other, costs[point.number]) for other in costs.values())
    ]
    seen: dict[tuple[float, ...], Point] = {}
    for point in kept:
        seen.setdefault(costs[point.number], point)
    return sorted(seen.values(), key=lambda point: costs[point.number])


def curve_of(record: Record) -> dict[int, float]:
    """Return the held-out loss of a run by step; not that of the start, which no training has made."""
    rows = ((int(row["step"]), row.get(HELD_OUT)) for row in record.history_rows())
    return {step: loss for step, loss in rows if loss is not None and step > 0}


def steps_of(record: Record) -> int:
    """Return how many training steps a run has taken."""
    return max((int(step) for step in record.history.get("step", []) if step is not None), default=0)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _evaluations(plan: Plan) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for run in plan.runs:
        if "subject" in run.inputs:
            found.setdefault(run.inputs["subject"], []).append(run.id)
    return found


def _point(
    one: Asked, search: Search, records: Mapping[str, Record], tested: Tested, evaluations: Mapping[str, list[str]]
) -> Point:
    known = [records[run] for run in one.runs if run in records]
    curve, steps = _mean_curve(known), sum(map(steps_of, known))
    statuses = {record.status for record in known}
    for state in ("pruned", "diverged") if search.prune else ("diverged",):
        if state in statuses:
            return Point(one, state, (), curve, steps)
    if statuses & set(BAD):
        return Point(one, "failed", (), curve, steps)
    if len(known) < len(one.runs) or "pruned" in statuses:
        return Point(one, "open", (), curve, steps)
    found = [[_measured(record, objective, tested, evaluations) for record in known] for objective in search.objectives]
    if any(value is None for values in found for value in values):
        waits = any(run not in records for record in known for run in evaluations.get(record.id, ()))
        return Point(one, "open" if waits else "failed", (), curve, steps)
    values = tuple(math.fsum(v for v in column if v is not None) / len(column) for column in found)
    return Point(one, "done" if all(map(math.isfinite, values)) else "diverged", values, curve, steps)


def _measured(
    record: Record, objective: Objective, tested: Tested, evaluations: Mapping[str, list[str]]
) -> float | None:
    """Return what a run measured, or its evaluation did; None where that is missing; UserError where it never comes."""
    metrics = {**record.metrics, **tested.get(record.id, {})}
    value = metrics.get(objective.metric)
    if isinstance(value, int | float):
        return float(value)
    if objective.metric not in metrics and (record.id in tested or record.id not in evaluations):
        known = ", ".join(name for name, found in metrics.items() if isinstance(found, int | float))
        raise UserError(
            f"points are judged by {objective.metric!r}, which {record.id} has not measured; it has {known}"
        )
    return None


def _mean_curve(records: Sequence[Record]) -> dict[int, float]:
    curves = [curve_of(record) for record in records]
    steps = sorted({step for curve in curves for step in curve})
    sums = {step: [curve[step] for curve in curves if step in curve] for step in steps}
    return {step: math.fsum(losses) / len(losses) for step, losses in sums.items()}
