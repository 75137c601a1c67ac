"""Where losses come from: two arms at several ranks, their tuning runs, teachers they share, and kinds of noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.selection import Grid, Tried, choose
from orchestrator.study import Selected, around

Floats: TypeAlias = NDArray[np.float64]
Noise: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], tuple[Floats, Floats]]
"""The own noise of arm and baseline, each of a shape (teachers, students, ranks), sd about 1."""

BEST = 1e-3
"""The learning rate that is best for both arms."""


@dataclass(frozen=True)
class World:
    """One way that runs may come out, and the design that judges them.

    name       what is told apart, in the table
    noise      of the runs, those that tune and those that are judged
    n          students of each teacher
    ranks      comparisons of the family
    effect     true differences of arm and baseline at their best rates, in sd of a difference, by rank
    sds        of arm and baseline
    tuning     tuning seeds that choose each arm's learning rate at each rank; 0: the rate is given
    start      on how many of them every rate is tried, the others being for near ties (Selected.start); None: on all
    is_nested  every replicate chooses rates of its own, on tuning seeds of its own
    curve      loss at one step of the grid (half a decade) from the best rate, in sd; 0: rates do not matter
    is_tuned_on_judged  the rate is chosen by the judged runs themselves (what not to do)
    teachers   how many; between: sd over teachers of the arms' difference, in sd of the difference of one pair of runs
    sizes      declared looks, empty: one at the end; shares_alpha: whether they share it
    has_own_seeds  every comparison has seeds of its own (Holm), instead of sharing them (Westfall-Young)
    margin     for equivalence, in sd of a difference
    is_meant   what the claims are held against: "arms" at their best rates and over all teachers, or "these" rates and
               teachers, those of the study
    meets      whether the tests' assumptions hold: independent replicates, whose differences are as likely as their
               negatives where there is no true difference
    """

    name: str
    noise: Noise
    n: int = 7
    ranks: int = 3
    effect: tuple[float, ...] = ()
    sds: tuple[float, float] = (1.0, 1.0)
    tuning: int = 0
    start: int | None = None
    is_nested: bool = False
    curve: float = 0.0
    is_tuned_on_judged: bool = False
    teachers: int = 1
    between: float = 0.0
    sizes: tuple[int, ...] = ()
    shares_alpha: bool = True
    has_own_seeds: bool = False
    margin: float | None = None
    is_meant: Literal["arms", "these"] = "arms"
    meets: bool = True

    @property
    def sd(self) -> float:
        """The sd of the difference of one pair of runs."""
        return float(np.hypot(*self.sds))

    @property
    def effects(self) -> Floats:
        """The true differences at the best rates, in loss, by rank."""
        return self.sd * np.array([*self.effect, *[0.0] * (self.ranks - len(self.effect))])


@dataclass(frozen=True)
class Drawn:
    """The losses of one family's runs: (teachers, students, ranks); `truth` by rank is the difference that is meant.

    `tuning_runs` is how many there were for a choice, on average.
    """

    arm: Floats
    baseline: Floats
    truth: Floats
    tuning_runs: float = 0.0


def draw(world: World, rng: np.random.Generator) -> Drawn:
    """Return the runs of one study: rates chosen, then the verdict's seeds run at them."""
    shape = (world.teachers, world.n, world.ranks)
    if world.is_tuned_on_judged:
        return _tuned_on_judged(world, rng, shape)
    choices = world.n if world.is_nested else 1
    found = [[[_chosen(world, side, rng) for _ in range(world.ranks)] for _ in range(choices)] for side in (0, 1)]
    at_rates = np.array([[[cost for cost, _ in ranks] for ranks in some] for some in found])
    runs = sum(count for some in found for ranks in some for _, count in ranks) / (2 * world.ranks)
    luck = rng.normal(size=(world.teachers, world.n, 1))
    of_teacher = world.between * world.sd * rng.normal(size=(world.teachers, 1, 1))
    own = world.noise(rng, shape)
    arm = luck + world.sds[0] * own[0] + world.effects + at_rates[0] + of_teacher
    baseline = luck + world.sds[1] * own[1] + at_rates[1]
    truth = world.effects.copy()
    if world.is_meant == "these":
        truth += (at_rates[0] - at_rates[1]).mean(axis=0) + of_teacher.mean()
    return Drawn(arm, baseline, truth, runs)


def _chosen(world: World, side: int, rng: np.random.Generator) -> tuple[float, int]:
    """Return the loss that an arm's chosen rate costs, and the tuning runs that it took.

    It is the study's own choice, from losses as noisy as those that are judged.
    """
    if not world.tuning:
        return 0.0, 0
    known: dict[float, list[float]] = {}

    def look(value: float, count: int) -> Tried:
        losses = known.setdefault(value, [])
        noise = world.sds[side] * world.noise(rng, (1, count - len(losses), 1))[side].ravel()
        losses += [float(loss) for loss in _at(world, value) + noise]
        return Tried(value, tuple(map(str, range(count))), tuple(losses))

    rule = Selected(around(BEST), seeds=tuple(range(world.tuning)), widenings=2, start=world.start)
    _, _, value = choose(Grid(rule.grid), look, rule)
    assert value is not None
    return _at(world, value), sum(map(len, known.values()))


def _at(world: World, rate: float) -> float:
    return world.curve * world.sd * float(2 * np.log10(rate / BEST)) ** 2


def _tuned_on_judged(world: World, rng: np.random.Generator, shape: tuple[int, ...]) -> Drawn:
    """Return runs whose rate was the best of three equal ones, by the mean of the runs that are judged."""
    sides = []
    for side in (0, 1):
        tried = np.stack([world.sds[side] * world.noise(rng, shape)[side] for _ in range(3)])
        best = tried.mean(axis=(1, 2)).argmin(axis=0)
        sides.append(np.take_along_axis(tried, best[None, None, None, :], axis=0)[0])
    return Drawn(sides[0], sides[1], np.zeros(shape[2]))


# -- noise ------------------------------------------------------------------------------------------------


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Normal in both arms."""
    return rng.normal(size=shape), rng.normal(size=shape)


def correlated(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """What an arm does at a seed is mostly the same at all ranks: correlation .8 between the differences."""
    common = rng.normal(0, 2, size=(*shape[:2], 1))
    return (common + rng.normal(size=shape)) / 2, rng.normal(size=shape) / 2


def laplace(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Heavy tails in both arms."""
    return rng.laplace(size=shape), rng.laplace(size=shape)


def unequal(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Every rank, and every seed, has an sd of its own."""
    scale = np.exp(rng.normal(size=(*shape[:2], 1))) * np.linspace(0.2, 3, shape[2])
    return scale * rng.normal(size=shape), scale * rng.normal(size=shape)


def skewed_alike(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Both arms are lognormal: their difference is symmetric."""
    return rng.lognormal(size=shape), rng.lognormal(size=shape)


def skewed_apart(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """The arm is lognormal, the baseline hardly varies: the difference has mean zero and is skewed."""
    return rng.lognormal(size=shape) - np.exp(0.5), 0.1 * rng.normal(size=shape)


def gamma(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Exponential arms with mean zero: symmetric differences if their sds are equal, skewed ones if not."""
    return rng.gamma(1, size=shape) - 1, rng.gamma(1, size=shape) - 1
