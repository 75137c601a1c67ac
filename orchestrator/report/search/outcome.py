"""What a search has come to, as data: a row per point, the best, the front, and what each axis matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from orchestrator.plan import Plan
from orchestrator.record import Record
from orchestrator.results import test_metrics
from orchestrator.search.points import Point, best_of, front, points_of
from orchestrator.selection import written
from orchestrator.space import Search
from orchestrator.study import setting_of
from trainables.base import Scalar

LEAST = 8
"""Points that are done, at least, before it is said what matters."""


@dataclass(frozen=True)
class Found:
    """A search and its outcome."""

    plan: Plan
    search: Search
    points: list[Point]
    records: Mapping[str, Record]

    @classmethod
    def of(cls, plan: Plan, records: Mapping[str, Record]) -> Found:
        """Return what the records say of a search's plan."""
        assert plan.study.search is not None
        return cls(plan, plan.study.search, points_of(plan, records), records)

    @property
    def best(self) -> Point | None:
        """The best point by the first objective."""
        return best_of(self.points, self.search)

    @property
    def front(self) -> list[Point]:
        """The points that no other beats in both objectives; with one, the best."""
        return front(self.points, self.search)

    @property
    def usual(self) -> Point | None:
        """The point of the usual settings, where it was tried and is done."""
        wanted = dict(self.search.usual or {})
        return next((p for p in self.points if wanted and dict(p.at) == wanted and p.state == "done"), None)

    @property
    def axes(self) -> list[str]:
        """The names of what is searched."""
        return [*self.search.space]

    def counts(self) -> dict[str, int]:
        """Return how many points ended how, in the order in which that happened first."""
        return dict(pd.Series([point.state for point in self.points]).value_counts(sort=False))

    def name(self, point: Point) -> str:
        """Return what a point's runs are called, without what tells them apart."""
        names = [self.plan[run].name.split(" ") for run in point.asked.runs if run in self.plan]
        common = [word for word in names[0] if all(word in other for other in names[1:])] if names else []
        return " ".join(common)

    def table(self) -> pd.DataFrame:
        """Return a row per point: number, state, values of the axes, objectives, training steps, runs."""
        best, kept = self.best, {point.number for point in self.front}
        rows = [
            {
                "point": point.number,
                "name": self.name(point),
                "state": point.state,
                **{setting_of(axis): point.at.get(axis) for axis in self.axes},
                **self.objectives(point),
                "steps": point.steps,
                "is_best": best is not None and point.number == best.number,
                "is_on_front": point.number in kept,
                "run_ids": " ".join(point.asked.runs),
            }
            for point in self.points
        ]
        return pd.DataFrame(rows)

    def objectives(self, point: Point) -> dict[str, float | None]:
        """Return a point's objectives by metric; None where it has none."""
        values = point.values if point.state == "done" else [None] * len(self.search.objectives)
        return {one.metric: value for one, value in zip(self.search.objectives, values, strict=True)}

    def tested(self, point: Point, metric: str = "test_loss") -> float | None:
        """Return the mean of a metric of the test data over a point's runs; it has chosen nothing."""
        by_run = test_metrics(self.plan, self.records)
        values = [by_run.get(run, {}).get(metric) for run in point.asked.runs]
        known = [float(value) for value in values if isinstance(value, int | float)]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def importances(self) -> dict[str, float]:
        """Return the share of the first objective's variance that each axis explains (fANOVA), largest first.

        Hutter et al., ICML 2014, by Optuna, over the points that are done; empty while they are few, or all alike.
        """
        done = [point for point in self.points if point.state == "done"]
        if len(done) < LEAST or len({point.values[0] for point in done}) < 2:
            return {}
        from orchestrator.search.importance import importances

        return importances(self.search, done)


def value_text(value: Scalar | None) -> str:
    """Return a value of an axis as people write it."""
    if isinstance(value, float):
        return written(value)
    return "" if value is None else str(value)
