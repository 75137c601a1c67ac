"""Means and ratios of means with their intervals.

scipy is imported where a t quantile is asked for: a table of six pairs or more is judged without it, and at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]


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


def mean_interval(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Return the mean of `values` (n,) with its Student t interval; one value has no interval, none is NaN."""
    from scipy import stats

    x = finite(values)
    if len(x) < 2:
        return Estimate(float(x.mean()) if len(x) else math.nan, len(x))
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    mean = float(x.mean())
    return Estimate(mean, len(x), Interval(mean - half, mean + half, level, "Student t"))


def proportion(hits: int, total: int, level: float = 0.95) -> Estimate:
    """Return the share of `hits` among `total` (at least 1) with its exact interval (Clopper & Pearson 1934)."""
    from scipy import stats

    found = stats.binomtest(hits, total).proportion_ci(level)
    return Estimate(hits / total, total, Interval(float(found.low), float(found.high), level, "Clopper-Pearson"))


def ratio_of_means(numerator: ArrayLike, denominator: ArrayLike, level: float = 0.95) -> Estimate:
    """Return mean(numerator) / mean(denominator) of paired values (n,) with Fieller's interval (Fieller 1954).

    Where the denominator is one constant this is the t interval of the numerator, divided. No interval where the
    denominator's own interval holds zero: the ratio is then unbounded.
    """
    from scipy import stats

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


def finite(values: ArrayLike) -> Floats:
    """Return the values (n,) as floats; ValueError if one is missing or infinite."""
    x = np.asarray(values, dtype=float).ravel()
    if not np.isfinite(x).all():
        raise ValueError("a value is missing or infinite; leave the pair out, and say so")
    return x
