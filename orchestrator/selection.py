"""Which value of a grid the tuning runs choose, and by how many values the grid has to grow before they can.

A pure function of the losses that are known: until every value of the grid has its loss nothing is chosen, so that
the order in which tuning runs end never matters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from orchestrator.errors import UserError
from orchestrator.study import two_digits
from trainables.base import Scalar

LEAST = 3
"""Values of a grid, at least: fewer have no inside that a best could lie in."""
TOLERANCE = 0.1
"""Relative difference of two logarithms of ratios that count as equal: 1e-3, 3e-3, 1e-2 are half decades."""

State: TypeAlias = Literal["open", "chosen", "on the edge", "blocked"]


@dataclass(frozen=True)
class Grid:
    """Positive values in equal ratios. Indices below 0 and beyond the last are those it would grow by."""

    values: tuple[float, ...]

    @property
    def step(self) -> float:
        """The mean logarithm of the ratio of neighbours."""
        return math.log(self.values[-1] / self.values[0]) / (len(self.values) - 1)

    def __getitem__(self, index: int) -> float:
        last = len(self.values) - 1
        if 0 <= index <= last:
            return self.values[index]
        end = self.values[0] if index < 0 else self.values[-1]
        return two_digits(end * math.exp(self.step * (index if index < 0 else index - last)))

    def is_like(self, other: Grid) -> bool:
        """Say whether the other has as many values, as far apart."""
        return len(self.values) == len(other.values) and math.isclose(self.step, other.step, rel_tol=TOLERANCE)


def grid_of(values: Any, setting: str) -> Grid:
    """Return the grid of these values; raises UserError for one that nothing can be selected from."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) < LEAST:
        raise UserError(f"{setting} is selected from {_listed(values)}; give at least {LEAST} values")
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or numbers[0] <= 0 or any(a >= b for a, b in itertools.pairwise(numbers)):
        raise UserError(f"{setting} is selected from {_listed(values)}; give positive numbers from small to large")
    grid = Grid(tuple(float(value) for value in values))
    steps = [math.log(b / a) for a, b in itertools.pairwise(grid.values)]
    if not all(math.isclose(step, grid.step, rel_tol=TOLERANCE) for step in steps):
        raise UserError(
            f"{setting} is selected from {_listed(values)}, which are not equally far apart: no arm may be tuned finer "
            "than another. Use around(CENTRE) or equal ratios"
        )
    return grid


@dataclass(frozen=True)
class Tried:
    """One value of a grid, its tuning runs and their losses: infinite if diverged, None while it is not known."""

    value: float
    runs: tuple[str, ...]
    losses: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        """The mean loss; None until all are known."""
        known = [loss for loss in self.losses if loss is not None]
        return math.fsum(known) / len(known) if len(known) == len(self.losses) else None


@dataclass(frozen=True)
class Selection:
    """One choice: what was tried for which point, and what came of it.

    `value` is what was chosen, None while that is open; `expected` is what stands for it in plans until then.
    `waiting` are the tuning runs it waits for, `failed` those of them that ended badly when last tried.
    """

    stage: str
    setting: str
    tried: tuple[Tried, ...]
    state: State
    value: float | None
    expected: float
    waiting: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    labels: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of all its tuning runs."""
        return tuple(run for tried in self.tried for run in tried.runs)

    @property
    def where(self) -> str:
        """What it is chosen for: "rank 4, init svd"."""
        return ", ".join(f"{axis.rpartition('.')[2]} {value}" for axis, value in self.labels.items())

    def __str__(self) -> str:
        """Return the choice in a line, for people."""
        losses = ", ".join(f"{written(tried.value)} {_loss(tried.mean)}" for tried in self.tried)
        about = f"{self.stage}.{self.setting} of {self.where}" if self.labels else f"{self.stage}.{self.setting}"
        if self.state == "blocked":
            return f"{about}: every value diverged ({losses}); choose lower ones"
        if self.state == "open":
            return f"{about}: open ({losses})"
        edge = ", on the edge of its grid" if self.state == "on the edge" else ""
        return f"{about}: {written(self.value or 0)}{edge} (validation loss: {losses})"


def choose(grid: Grid, look: Callable[[float], Tried], limit: int) -> tuple[tuple[Tried, ...], State, float | None]:
    """Return what has to be tried, the state of the choice, and the value chosen.

    `look` returns what is known of a value. The best is the value with the smallest mean loss, of equal ones the
    smallest value. While it lies on an edge the grid grows there by one value, `limit` times at most.
    """
    tried = [look(grid[index]) for index in range(len(grid.values))]
    low, high = 0, len(grid.values) - 1
    for _ in range(limit + 1):
        means = [item.mean for item in tried if item.mean is not None]
        if len(means) < len(tried):
            return tuple(tried), "open", None
        best = min(range(len(tried)), key=lambda index: (means[index], tried[index].value))
        if 0 < best < len(tried) - 1:
            return tuple(tried), "chosen", tried[best].value
        if high - low + 1 == len(grid.values) + limit:
            break
        if best == 0:
            low -= 1
            tried.insert(0, look(grid[low]))
        else:
            high += 1
            tried.append(look(grid[high]))
    if means[best] == math.inf:
        return tuple(tried), "blocked", None
    return tuple(tried), "on the edge", tried[best].value


def _listed(values: Any) -> str:
    return ", ".join(map(str, values)) if isinstance(values, list | tuple) else str(values)


def _loss(mean: float | None) -> str:
    return "?" if mean is None else "diverged" if mean == math.inf else f"{mean:.4g}"


def written(value: float) -> str:
    """Return a number as people write rates: 1e-3, 3.2e-5, 0.1."""
    if value == 0 or abs(value) >= 1e-2:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"
