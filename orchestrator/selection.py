"""Which value of a grid the tuning runs choose, by how many values the grid has to grow, and who needs more seeds.

A pure function of the losses that are known: until every value that races has its losses nothing is chosen, so that
the order in which tuning runs end never matters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from orchestrator.errors import UserError
from orchestrator.study import Selected, two_digits
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


CLEAR = 3.0
"""Standard errors by which the best has to be ahead: with three values on two seeds one-sided t tests of 5 % each."""


@dataclass(frozen=True)
class Lead:
    """How far one value is ahead of another in mean loss, and the standard error of that; both on the same seeds."""

    behind: float
    distance: float
    error: float

    @property
    def is_clear(self) -> bool:
        """Whether the distance is more than noise."""
        return self.distance > CLEAR * self.error or self.distance == math.inf

    @property
    def regret(self) -> float:
        """By how much the other may be the better one after all, by the same standard errors; 0 where it is clear."""
        return 0.0 if self.is_clear else CLEAR * self.error - self.distance

    def __str__(self) -> str:
        """Return "ahead of 3e-3 by 0.012 (standard error 0.004): clear"."""
        if self.distance == math.inf:
            return f"ahead of {written(self.behind)}, which diverged: clear"
        by = f"{self.distance:.2g} (standard error {self.error:.2g})"
        return f"ahead of {written(self.behind)} by {by}: {'clear' if self.is_clear else 'within noise'}"


def leads(best: Tried, others: Sequence[Tried]) -> list[Lead]:
    """Return how far the best is ahead of each of the others, all tried on the same seeds; all losses are known.

    The error of a difference of two means of m losses is sqrt(2 s^2 / m), where s^2 is the mean square, on
    (k - 1)(m - 1) degrees of freedom, of what values and seeds leave of the losses of the k values that ended on all
    seeds. These are of one choice alone: the noise of arms differs tenfold.
    """
    means = {tried: tried.mean for tried in (best, *others)}
    ended = [tried for tried, mean in means.items() if mean is not None and mean < math.inf]
    error = math.sqrt(2 * _residual([tried.losses for tried in ended]) / len(best.losses))
    top = means[best]
    assert top is not None
    behind = [(other.value, mean) for other, mean in means.items() if other is not best and mean is not None]
    found = [Lead(value, math.inf if mean == math.inf else mean - top, error) for value, mean in behind]
    return sorted(found, key=lambda lead: (lead.distance, lead.behind))


def _residual(losses: Sequence[Sequence[float | None]]) -> float:
    """Return the mean square of the residual of values x seeds; 0 for a single value, infinite for a single seed."""
    rows = [[loss for loss in row if loss is not None] for row in losses]
    values, seeds = len(rows), len(rows[0]) if rows else 0
    if values < 2 or seeds < 2:
        return 0.0 if values < 2 else math.inf
    of_value = [math.fsum(row) / seeds for row in rows]
    of_seed = [math.fsum(column) / values for column in zip(*rows, strict=True)]
    whole = math.fsum(of_value) / values
    squares = (
        (loss - by_value - by_seed + whole) ** 2
        for row, by_value in zip(rows, of_value, strict=True)
        for loss, by_seed in zip(row, of_seed, strict=True)
    )
    return math.fsum(squares) / ((values - 1) * (seeds - 1))


@dataclass(frozen=True)
class Selection:
    """One choice: by which rule, what was tried for which point, and what came of it.

    `value` is what was chosen, None while that is open; `expected` is what stands for it in plans until then.
    `waiting` are the tuning runs it waits for, `failed` those of them that ended badly when last tried.
    """

    stage: str
    setting: str
    rule: Selected
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

    @property
    def racing(self) -> tuple[Tried, ...]:
        """The values that were tried on the most seeds: the chosen one and those it was last compared with."""
        most = max(len(tried.runs) for tried in self.tried)
        return tuple(tried for tried in self.tried if len(tried.runs) == most)

    @property
    def lead(self) -> Lead | None:
        """How far the chosen value is ahead of the next; None while nothing is chosen, or with one seed to go by."""
        return next(iter(self._leads()), None)

    @property
    def regret(self) -> float | None:
        """By how much some other value that was tried may be better (`Lead.regret`), in units of the loss, or None."""
        return max((lead.regret for lead in self._leads()), default=None)

    def _leads(self) -> list[Lead]:
        best = next((tried for tried in self.racing if tried.value == self.value), None)
        if best is None or len(best.losses) < 2:
            return []
        return leads(best, [tried for tried in self.racing if tried is not best])

    def __str__(self) -> str:
        """Return the choice in a line, for people."""
        losses = ", ".join(f"{written(tried.value)} {_loss(tried.mean)}{self._on(tried)}" for tried in self.tried)
        about = f"{self.stage}.{self.setting} of {self.where}" if self.labels else f"{self.stage}.{self.setting}"
        if self.state == "blocked":
            return f"{about}: every value diverged ({losses}); choose lower ones"
        if self.state == "open":
            return f"{about}: open ({losses})"
        edge = ", on the edge of its grid" if self.state == "on the edge" else ""
        lead = f", {self.lead}" if self.lead else ""
        return f"{about}: {written(self.value or 0)}{edge} (validation loss: {losses}){lead}"

    def _on(self, tried: Tried) -> str:
        """Return on how many runs a mean rests, where they are not all as many."""
        return "" if len({len(one.runs) for one in self.tried}) == 1 else f" of {len(tried.runs)}"


def choose(
    grid: Grid, look: Callable[[float, int], Tried], rule: Selected
) -> tuple[tuple[Tried, ...], State, float | None]:
    """Return what has to be tried, the state of the choice, and the value chosen.

    `look` returns what is known of a value on the first so many of the rule's seeds. All values of the grid begin, on
    `rule.start` seeds. The best is the value with the smallest mean loss, of equal ones the smallest value; while it
    lies on an edge the grid grows there by one value, `rule.widenings` times at most. Values that are clearly worse
    (`Lead.is_clear`) are out; if any are left beside the best, they and the best are tried on twice as many seeds, as
    long as there are some: racing (Maron & Moore 1994), as F-Race does it for settings (Birattari et al. 2002).
    """
    count, most = rule.start or len(rule.seeds), len(grid.values) + rule.widenings
    tried = {index: look(grid[index], count) for index in range(len(grid.values))}
    racing = set(tried)
    while True:
        means = {index: mean for index in racing if (mean := tried[index].mean) is not None}
        if len(means) < len(racing):
            return _in_order(tried), "open", None
        best = min(racing, key=lambda index: (means[index], index))
        if best in (min(tried), max(tried)) and len(tried) < most:
            grown = best - 1 if best == min(tried) else best + 1
            tried[grown] = look(grid[grown], count)
            racing.add(grown)
            continue
        if means[best] == math.inf:
            return _in_order(tried), "blocked", None
        racing = {best} | _within_noise(tried, best, racing)
        if len(racing) == 1 or count == len(rule.seeds):
            is_inside = min(tried) < best < max(tried)
            return _in_order(tried), "chosen" if is_inside else "on the edge", grid[best]
        count = min(2 * count, len(rule.seeds))
        tried |= {index: look(grid[index], count) for index in racing}


def race_ahead(tried: Sequence[Tried], rule: Selected) -> list[float]:
    """Return the values that an open choice is expected to try on all seeds: two, until it is known which race.

    So is a plan's time neither that of no race nor of one of all values: of simulated races (docs/error_rates.md) most
    have two values that go on to the end.
    """
    most = max(len(one.runs) for one in tried)
    racing = [one.value for one in tried if len(one.runs) == most]
    first = max(0, len(racing) // 2 - 1)
    return [] if rule.start in (None, len(rule.seeds)) else racing[first : first + 2]


def _within_noise(tried: Mapping[int, Tried], best: int, racing: Collection[int]) -> set[int]:
    """Return those racing that the best is not clearly ahead of."""
    found = leads(tried[best], [tried[index] for index in racing if index != best])
    unclear = {lead.behind for lead in found if not lead.is_clear}
    return {index for index in racing if tried[index].value in unclear}


def _in_order(tried: Mapping[int, Tried]) -> tuple[Tried, ...]:
    return tuple(tried[index] for index in sorted(tried))


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
