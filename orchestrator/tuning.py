"""The choices of a study: for which points a setting is selected, by which tuning runs, and what they say so far."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestrator.errors import UnknownName, UserError
from orchestrator.selection import Grid, Selection, Tried, choose, grid_of, race_ahead, written
from orchestrator.study import Point, Selected, Study
from orchestrator.values import value_at
from trainables.base import Scalar

if TYPE_CHECKING:
    from orchestrator.plan import Run
    from orchestrator.record import Record

Records: TypeAlias = Callable[[str], "Record | None"]
"""What is known of a run, by its id: its record, or None."""

Labels: TypeAlias = Mapping[str, Scalar]


class Choices:
    """Makes each choice once, however many points share it."""

    def __init__(
        self,
        study: Study,
        make: Callable[[str, Point], Run],
        expect: Callable[[str, Point], object],
        labels: Mapping[str, Labels],
        records: Records,
    ) -> None:
        """Take the study, what makes or expects the tuning run of a stage at a point, all labels, what is known."""
        self.study, self.make, self.expect, self.labels, self.records = study, make, expect, labels, records
        self.tried: set[str] = set()
        self.made: dict[tuple[Any, ...], Selection] = {}
        self.grids: dict[str, Grid] = {}

    def select(self, name: str, setting: str, selected: Selected, point: Point) -> Selection:
        """Return the choice of one setting of a stage at one point."""
        per = self._varying(point) if selected.per is None else selected.per
        for axis in per:
            if axis not in point:
                raise UnknownName(f"{name}.{setting} is selected per {axis!r}, which is no axis", point, axis, "Axes")
        key = (name, setting, *(point[axis] for axis in per))
        if key not in self.made:
            self.made[key] = self._choose(name, setting, selected, list(self._pool(per, point)))
        return self.made[key]

    def all(self) -> tuple[Selection, ...]:
        """Return the choices, those with the same tuning runs once, with the labels that their runs have in common."""
        found = {item.runs: item for item in self.made.values()}
        return tuple(replace(item, labels=self._common(item)) for item in found.values())

    def _common(self, item: Selection) -> dict[str, Scalar]:
        first, *others = (self.labels[run] for run in item.runs)
        common = {axis: value for axis, value in first.items() if all(o.get(axis, ...) == value for o in others)}
        common.pop(self.study.replicate, None)
        return common

    def _varying(self, point: Point) -> list[str]:
        """Return the axes that have a choice each: all but replicates, and what another choice is tried at."""
        return [axis for axis in point if not self.study.is_replicate(axis) and axis not in self.tried]

    def _pool(self, per: Iterable[str], point: Point) -> Iterator[dict[str, Any]]:
        """Yield the points, tuning seeds aside, whose runs a choice is made by."""
        axes = self.study.axes
        fixed = {axis: axes[axis][0] for axis in axes if self.study.is_replicate(axis) and axis not in per}
        others = [axis for axis in axes if axis not in fixed and axis not in per]
        for values in itertools.product(*(axes[axis] for axis in others)):
            yield {**point, **fixed, **dict(zip(others, values, strict=True))}

    def _choose(self, name: str, setting: str, selected: Selected, pool: list[dict[str, Any]]) -> Selection:
        axis = f"{name}.{setting}"
        self.tried.add(axis)
        self._check_seeds(axis, selected)
        grid = self._grid(axis, selected, pool)

        def points(value: float, count: int) -> list[dict[str, Any]]:
            seeds = selected.seeds[:count]
            return [{**point, self.study.replicate: seed, axis: value} for point in pool for seed in seeds]

        def look(value: float, count: int) -> Tried:
            runs = [self._tuning(name, point) for point in points(value, count)]
            return Tried(value, tuple(run.id for run in runs), tuple(self._loss(run, selected.metric) for run in runs))

        tried, state, value = choose(grid, look, selected)
        if state == "open":
            for racing in race_ahead(tried, selected):
                for point in points(racing, len(selected.seeds)):
                    self.expect(name, point)
        losses = [pair for item in tried for pair in zip(item.runs, item.losses, strict=True)]
        waiting = tuple(run for run, loss in losses if loss is None)
        failed = tuple(run for run in waiting if self.records(run) is not None)
        expected = grid[len(grid.values) // 2]
        return Selection(name, setting, selected, tried, state, value, expected, waiting, failed)

    def _tuning(self, name: str, point: Point) -> Run:
        run = self.make(name, point)
        if self.study.replicate not in self.labels[run.id]:
            raise UserError(
                f"the runs of {name} do not follow {self.study.replicate}, so those that tune it would be the "
                "verdict's own; select a setting of a stage that does"
            )
        return run

    def _loss(self, run: Run, metric: str) -> float | None:
        """Return a tuning run's loss: infinite where it diverged, None where there is none yet."""
        record = self.records(run.id)
        if record is None or record.status not in ("done", "diverged"):
            return None
        value = math.inf if record.status == "diverged" else record.metrics.get(metric)
        if not isinstance(value, int | float):
            known = ", ".join(record.metrics)
            raise UserError(f"{run.stage} is selected by {metric!r}, which {run.id} has not measured; it has {known}")
        return float(value) if math.isfinite(value) else math.inf

    def _check_seeds(self, setting: str, selected: Selected) -> None:
        """Raise UserError where the verdict would judge the runs that the choice is made by."""
        axis = self.study.replicate
        if axis not in self.study.axes:
            raise UserError(f"{setting} is selected on other values of {axis}, which is no axis of the study")
        if not selected.seeds:
            raise UserError(f"{setting} is selected on no value of {axis}; give Selected some seeds")
        if selected.start is not None and not 1 <= selected.start <= len(selected.seeds):
            raise UserError(
                f"{setting} is selected on {len(selected.seeds)} seeds, of which {selected.start} start: start with 1 "
                f"to {len(selected.seeds)}"
            )
        shared = [str(seed) for seed in selected.seeds if seed in self.study.axes[axis]]
        if shared:
            raise UserError(
                f"{setting} is selected on {axis} {', '.join(shared)}, which the verdict uses too: choosing among runs "
                f"that are also judged favours the noisier arm. Take other values in --axis {axis}, or other tuning "
                "seeds in the study"
            )

    def _grid(self, setting: str, selected: Selected, pool: list[dict[str, Any]]) -> Grid:
        """Return the grid of a choice; raises UserError where it is not one, or not like the others of the study."""
        grids = {grid_of(value_at(selected.grid, point, setting), setting) for point in pool}
        if len(grids) > 1:
            raise UserError(
                f"{setting} has several grids where one value is selected; select it per the axes they follow"
            )
        (grid,) = grids
        first = self.grids.setdefault(setting, grid)
        if not grid.is_like(first):
            shown = " and from ".join(", ".join(map(written, some.values)) for some in (first, grid))
            raise UserError(f"{setting} is selected from {shown}: give every arm as many values, as far apart")
        return grid
