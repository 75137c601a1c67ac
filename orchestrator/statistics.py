"""Paired comparisons, their tests and intervals.

Everything rests on one fact: if the arms do not differ, each paired difference is as likely with either sign.
The exact sign-flip test enumerates the signs; its interval is the set of differences that the same test would
not reject, so that test and interval never disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from orchestrator.design import smallest_p

Floats: TypeAlias = NDArray[np.float64]

EXACT_UP_TO = 20
"""Pairs up to which all 2^n signs are enumerated."""
DRAWS = 100_000
"""Random sign patterns beyond that."""
FEWEST_FOR_INVERSION = 6
"""Pairs below which an inverted test gives no finite 95 % interval: 2^(1-5) is above .05."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval; `method` says in words how it was made. Infinite ends are stated, not hidden."""

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval and the number of values behind it; no interval where one value gives none."""

    mean: float
    n: int
    interval: Interval | None = None


@dataclass(frozen=True)
class Paired:
    """A paired comparison: mean difference, interval, two-sided p, and whether p is exact or Monte Carlo."""

    estimate: Estimate
    p: float
    is_exact: bool

    @property
    def smallest_p(self) -> float:
        """The smallest p that this many pairs could have given."""
        return smallest_p(self.estimate.n)


@dataclass(frozen=True)
class StepsToTarget:
    """Steps to a target over several runs, those that never reached it censored at the horizon.

    `median` is None if the middle run never reached the target; `restricted` is the mean of min(steps, horizon),
    which is unbiased for the restricted mean because censoring happens at the horizon only.
    """

    reached: int
    n: int
    horizon: int
    median: float | None
    restricted: Estimate

    def __str__(self) -> str:
        """Return the median, as "> N" where it is censored."""
        return f"> {self.horizon}" if self.median is None else f"{self.median:g}"


def mean_interval(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Return the mean of `values` (n,) with its Student t interval; one value has no interval, none is NaN."""
    x = _finite(values)
    if len(x) < 2:
        return Estimate(float(x.mean()) if len(x) else math.nan, len(x))
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    mean = float(x.mean())
    return Estimate(mean, len(x), Interval(mean - half, mean + half, level, "Student t"))


def sign_flip(differences: ArrayLike, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Paired:
    """Test whether paired `differences` (n,) are symmetric about zero, by their mean; two-sided.

    Exact by enumeration up to 20 pairs, else `draws` random sign patterns from `seed`, (1 + hits) / (1 + draws)
    (Phipson & Smyth 2010). The interval inverts the test from six pairs on; below, it is a t interval and says so.
    """
    d = _finite(differences)
    if len(d) == 0:
        return Paired(Estimate(math.nan, 0), 1.0, is_exact=True)
    lows, highs, patterns = _split_means(d, draws=draws, seed=seed)
    slack = 1e-12 * float(np.abs(d).sum())
    p = (1 + int(((lows <= slack) & (highs >= -slack)).sum())) / patterns
    mean = float(d.mean())
    return Paired(Estimate(mean, len(d), _inverted(d, level, draws, seed)), p, is_exact=len(d) <= EXACT_UP_TO)


def _inverted(d: Floats, level: float, draws: int, seed: int) -> Interval | None:
    """Return the values that the test of d - value keeps; a t interval where there are too few pairs."""
    if len(d) < FEWEST_FOR_INVERSION:
        interval = mean_interval(d, level).interval
        return interval and Interval(interval.low, interval.high, level, f"Student t ({len(d)} pairs)")
    lows, highs, patterns = _split_means(d, draws=draws, seed=seed)
    outside = math.floor((1 - level) * patterns * (1 + 1e-12))
    if outside == 0:
        return Interval(-math.inf, math.inf, level, "sign-flip test inverted")
    low = float(np.partition(lows, outside - 1)[outside - 1])
    high = float(-np.partition(-highs, outside - 1)[outside - 1])
    return Interval(low, high, level, "sign-flip test inverted")


def _split_means(d: Floats, *, draws: int, seed: int) -> tuple[Floats, Floats, int]:
    """Return the smaller and the larger mean of every split of `d` in two, and the number of sign patterns.

    Flipping the signs of a subset S of d - t makes the sum at least as extreme exactly if t lies between the mean
    of S and that of its complement: |T - 2A| >= |T| is A (T - A) <= 0, where T and A are the sums over all and
    over S. So these pairs of means hold the whole p function of t (Hartigan 1969, typical values). S and its
    complement count once; the empty split, which always counts, is left to the caller.
    """
    n = len(d)
    if n <= EXACT_UP_TO:
        sums, sizes = np.zeros(1), np.zeros(1)
        for value in d[1:]:
            sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])
        patterns = len(sums)
        sums, sizes = sums[1:], sizes[1:]
    else:
        chosen = np.random.default_rng(seed).random((draws, n)) < 0.5
        chosen[:, 0] = False
        sums, sizes, patterns = chosen @ d, chosen.sum(axis=1).astype(float), draws + 1
    empty = sizes == 0
    inside, outside = sums / np.where(empty, 1, sizes), (d.sum() - sums) / (n - sizes)
    lows, highs = np.minimum(inside, outside), np.maximum(inside, outside)
    return np.where(empty, -np.inf, lows), np.where(empty, np.inf, highs), patterns


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p, in the order given (Holm 1979); a missing test counts with p = 1."""
    m, running, adjusted = len(p_values), 0.0, [1.0] * len(p_values)
    for step, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (m - step) * p_values[index]))
        adjusted[index] = running
    return adjusted


def ratio_of_means(numerator: ArrayLike, denominator: ArrayLike, level: float = 0.95) -> Estimate:
    """Return mean(numerator) / mean(denominator) of paired values (n,) with Fieller's interval (Fieller 1954).

    Where the denominator is one constant this is the t interval of the numerator, divided. No interval where the
    denominator's own interval holds zero: the ratio is then unbounded.
    """
    a, b = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    n, ratio = len(a), float(a.mean() / b.mean())
    if n < 2:
        return Estimate(ratio, n)
    (s_aa, s_ab), (_, s_bb) = np.cov(a, b)
    t2 = float(stats.t.ppf((1 + level) / 2, n - 1)) ** 2 / n
    square, linear, rest = b.mean() ** 2 - t2 * s_bb, a.mean() * b.mean() - t2 * s_ab, a.mean() ** 2 - t2 * s_aa
    if square <= 0:
        return Estimate(ratio, n)
    half = math.sqrt(max(linear**2 - square * rest, 0.0))
    return Estimate(ratio, n, Interval((linear - half) / square, (linear + half) / square, level, "Fieller"))


def gap_closed(base: ArrayLike, teacher: ArrayLike, student: ArrayLike, *, higher_is_better: bool) -> Estimate | None:
    """Return (mean base - mean student) / (mean base - mean teacher) over paired replicates (n,), as a fraction.

    A ratio of mean differences, not a mean of ratios. None where the teacher did not improve on the base: there
    is no gap to close then.
    """
    sign = -1.0 if higher_is_better else 1.0
    gap = sign * (np.asarray(base, dtype=float) - np.asarray(teacher, dtype=float))
    if len(gap) == 0 or not gap.mean() > 0:
        return None
    return ratio_of_means(sign * (np.asarray(base, dtype=float) - np.asarray(student, dtype=float)), gap)


def steps_to_target(steps: Sequence[float | None], horizon: int) -> StepsToTarget:
    """Return the summary of steps to target of runs with one horizon; None is a run that never got there."""
    ordered = sorted(math.inf if step is None else float(step) for step in steps)
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    median = sum(middle) / len(middle) if middle and math.isfinite(middle[-1]) else None
    restricted = mean_interval([min(step, horizon) for step in ordered])
    reached = sum(math.isfinite(step) for step in ordered)
    return StepsToTarget(reached, len(ordered), horizon, median, restricted)


def _finite(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=float).ravel()
    if not np.isfinite(x).all():
        raise ValueError("a value is missing or infinite; leave the pair out, and say so")
    return x
