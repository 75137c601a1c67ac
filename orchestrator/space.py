"""What a search varies, and what it looks for. Data, like the study that holds it; Optuna is asked elsewhere.

    Search(
        space={
            "student.learning_rate": Float(1e-4, 1e-1, log=True),
            "student.rank": Int(2, 16, log=True),
            "student.init": Choice("random", "svd"),
            "student.lora_dropout": Float(0.0, 0.2, when={"student.init": ("random",)}),
        },
        points=40,
    )

Names are those of axes: a setting of a stage, or a free axis that `By` and `Computed` read. Where a condition (`when`)
does not hold the axis is not there, and its setting has the value that the stage itself gives it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from trainables.base import InputError, Scalar

DIGITS = 3
"""Significant digits of a number that is searched: one typed by hand is then the same run."""

Condition: TypeAlias = Mapping[str, Sequence[Scalar]]
"""Values of other axes, any of which an axis needs to be there."""
Values: TypeAlias = Mapping[str, Scalar]
"""One point: a value for every axis that is there."""
SamplerName: TypeAlias = Literal["tpe", "nsga2", "random"]
RuleName: TypeAlias = Literal["asha", "median"]


@dataclass(frozen=True)
class Float:
    """A number between two; `log`: as likely in every octave."""

    low: float
    high: float
    log: bool = False
    when: Condition = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high, is_log=self.log)

    def settle(self, value: float) -> float:
        """Return the value as one would write it, within the bounds."""
        return min(max(float(f"{value:.{DIGITS - 1}e}"), self.low), self.high)

    def at(self, share: float) -> float:
        """Return the value at a share of the way from low to high."""
        return self.settle(_between(self.low, self.high, share, is_log=self.log))

    def holds(self, value: Any) -> bool:
        """Say whether a value is one of the range."""
        return _is_number(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Int:
    """A whole number between two, both included; `log`: as likely in every octave."""

    low: int
    high: int
    log: bool = False
    when: Condition = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high, is_log=self.log)

    def settle(self, value: float) -> int:
        """Return the nearest whole number within the bounds."""
        return min(max(round(value), self.low), self.high)

    def at(self, share: float) -> int:
        """Return the value at a share of the way from low to high."""
        return self.settle(_between(self.low, self.high, share, is_log=self.log))

    def holds(self, value: Any) -> bool:
        """Say whether a value is one of the range."""
        return _is_number(value) and value == int(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low} to {self.high}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """One of several values, in no order."""

    values: tuple[Scalar, ...]
    when: Condition = field(default_factory=dict)

    def __init__(self, *values: Scalar, when: Condition | None = None) -> None:
        """Take the values; raises InputError for none, or for one twice."""
        if not values or len(set(values)) < len(values):
            raise InputError(f"a choice of {', '.join(map(str, values)) or 'nothing'}: give values, each once")
        object.__setattr__(self, "values", tuple(values))
        object.__setattr__(self, "when", dict(when or {}))

    def at(self, share: float) -> Scalar:
        """Return the value at a share of the way through the list."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def holds(self, value: Any) -> bool:
        """Say whether a value is one of these."""
        return value in self.values

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Range: TypeAlias = Float | Int | Choice


@dataclass(frozen=True)
class Objective:
    """What a point is judged by: the mean over its runs of a metric that they, or their evaluations, have measured."""

    metric: str = "final_eval_loss"
    higher_is_better: bool = False

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Optuna's word for it."""
        return "maximize" if self.higher_is_better else "minimize"


@dataclass(frozen=True)
class Prune:
    """When a run of a search is stopped early, by its held-out loss.

    rule        asha: asynchronous successive halving (Li et al., arXiv 1810.05934): at step `first`, `first` x
                `reduction`, ... only the best 1 / `reduction` of the runs that have come so far go on.
                median: a run whose best loss is above the median of the others' at the same step ends
    first       the first step at which it is asked, a step that is evaluated
    reduction   see asha
    startup     median: finished runs before anything is stopped
    """

    rule: RuleName = "asha"
    first: int = 10
    reduction: int = 3
    startup: int = 5

    def __post_init__(self) -> None:
        if self.first < 1 or self.reduction < 2 or self.startup < 1:
            raise InputError(f"{self.rule} with first={self.first}, reduction={self.reduction}: take at least 1 and 2")


@dataclass(frozen=True)
class Search:
    """How a space is searched: `points` of it, judged by `objectives`.

    sampler   tpe: tree-structured Parzen estimator, with two objectives its multi-objective form; nsga2: NSGA-II
    startup   points that are taken at random before the sampler has something to learn from; NSGA-II's population
    usual     a point of the space that stands for the settings one would take without a search: the first to be tried
    arm       the axis whose values start at different losses: a run is only stopped early by others of its arm
    prune     the rule for that; None: every run ends
    """

    space: Mapping[str, Range]
    points: int
    objectives: tuple[Objective, ...] = (Objective(),)
    sampler: SamplerName = "tpe"
    seed: int = 1
    startup: int = 10
    usual: Values | None = None
    arm: str | None = None
    prune: Prune | None = None

    def __post_init__(self) -> None:
        if not self.space:
            raise InputError("a search with nothing to vary: give it a space")
        if self.points < 1:
            raise InputError(f"a search of {self.points} points: ask for at least one")
        if not 1 <= len(self.objectives) <= 2:
            raise InputError(f"a search by {len(self.objectives)} objectives: give one or two")
        if self.prune is not None and len(self.objectives) > 1:
            raise InputError("a search by two objectives cannot stop runs early: no single number says which is worse")
        if self.sampler == "nsga2" and len(self.objectives) < 2:
            raise InputError("NSGA-II looks for trade-offs between two objectives; with one, take the sampler tpe")
        if self.usual is not None and self.usual.keys() - self.space.keys():
            raise InputError(f"usual settings of {', '.join(self.usual.keys() - self.space.keys())}, which is no axis")
        self._check_conditions()

    def _check_conditions(self) -> None:
        before: set[str] = set()
        for axis, of in self.space.items():
            for other in of.when:
                if other not in before:
                    raise InputError(f"{axis} depends on {other}, which is no axis before it in the space")
            before.add(axis)

    def point(self, choose: Callable[[str, Range], Scalar]) -> dict[str, Scalar]:
        """Return a point whose axes are chosen one after the other, of those that are there."""
        values: dict[str, Scalar] = {}
        for axis, of in self.space.items():
            if all(values.get(other, ...) in wanted for other, wanted in of.when.items()):
                values[axis] = choose(axis, of)
        return values

    def middle(self) -> dict[str, Scalar]:
        """Return the point in the middle of every range."""
        return self.point(lambda _axis, of: of.at(0.5))

    def stand_ins(self, count: int) -> list[dict[str, Scalar]]:
        """Return as many points of the space: what those that are still to be asked for may be like."""
        source = random.Random(self.seed)  # noqa: S311 - nothing secret
        return [self.point(lambda _axis, of: of.at(source.random())) for _ in range(count)]

    def holds(self, values: Values) -> bool:
        """Say whether values are a point of this space: every axis that has to be there, and no other."""
        wanted = self.point(lambda axis, _of: values.get(axis))
        return wanted.keys() == values.keys() and all(self.space[axis].holds(value) for axis, value in wanted.items())


@dataclass(frozen=True)
class Asked:
    """A point that was asked for: its place in the order of asking, and what the sampler wants to remember of it."""

    number: int
    values: Values
    attrs: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    """The ids of the runs it is judged by, one a replicate; known once it is planned."""


def _check_bounds(low: float, high: float, *, is_log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"a range from {low:g} to {high:g}: give the smaller number first")
    if is_log and low <= 0:
        raise InputError(f"a logarithmic range from {low:g}: it begins above 0")


def _between(low: float, high: float, share: float, *, is_log: bool) -> float:
    return low * (high / low) ** share if is_log else low + (high - low) * share


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
