"""Paired comparisons, their tests and intervals.

Everything rests on one fact: if the arms do not differ, each paired difference is as likely with either sign.
The exact sign-flip test enumerates the signs; its interval is the set of differences that the same test would
not reject, so that test and interval never disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.design import EXACT_UP_TO, smallest_p
from orchestrator.statistics.estimates import Estimate, Floats, Interval, finite, mean_interval

DRAWS = 100_000
"""Random sign patterns where there are too many pairs to enumerate them."""
BLOCK = 14
"""Pairs whose signs are enumerated at once: 2^14 sums of every column."""
SLACK = 1e-9
"""Relative difference below which two sums are equal: sums of the same numbers differ by rounding alone."""
ROUNDING = 1e-12
"""Absolute difference below which two sums are equal, as a share of their terms' absolute sum: where they cancel, that
of rounding is larger than any share of what is left."""
FEWEST_FOR_INVERSION = 6
"""Pairs below which an inverted test gives no finite 95 % interval: 2^(1-5) is above .05."""


@dataclass(frozen=True)
class Paired:
    """A paired comparison: mean difference, interval, two-sided p, whether p is exact or Monte Carlo, and Cohen's d_z.

    `d_z` is the mean over the standard deviation of the differences; None for one pair, or for equal differences.
    """

    estimate: Estimate
    p: float
    is_exact: bool
    d_z: float | None = None

    @property
    def smallest_p(self) -> float:
        """The smallest p that this many pairs could have given."""
        return smallest_p(self.estimate.n)


def sign_flip(differences: ArrayLike, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Paired:
    """Test whether paired `differences` (n,) are symmetric about zero, by their mean; two-sided.

    Exact by enumeration up to 20 pairs, else `draws` random sign patterns from `seed`, (1 + hits) / (1 + draws)
    (Phipson & Smyth 2010). The interval inverts the test from six pairs on; below, it is a t interval and says so.
    """
    d = finite(differences)
    if len(d) == 0:
        return Paired(Estimate(math.nan, 0), 1.0, is_exact=True)
    lows, highs, patterns = _split_means(d, draws=draws, seed=seed)
    slack = ROUNDING * float(np.abs(d).sum())
    p = (1 + int(((lows <= slack) & (highs >= -slack)).sum())) / patterns
    mean = float(d.mean())
    estimate = Estimate(mean, len(d), _inverted(d, level, draws, seed))
    return Paired(estimate, p, is_exact=len(d) <= EXACT_UP_TO, d_z=standardised(d))


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


def standardised(differences: ArrayLike) -> float | None:
    """Return Cohen's d_z of paired differences (n,), mean / standard deviation (Lakens 2013, eq. 6); None if that is 0.

    A spread below a billionth of the values is rounding: such differences count as equal.
    """
    d = finite(differences)
    if len(d) < 2:
        return None
    spread = float(d.std(ddof=1))
    return float(d.mean()) / spread if spread > SLACK * float(np.abs(d).max()) else None


def flipped_sums(values: Floats, *, draws: int = DRAWS, seed: int = 0) -> Iterator[Floats]:
    """Yield blocks (patterns, m) of the sums over pairs of `values` (n, m), a row's m values under one sign.

    All 2^(n-1) patterns that keep the first row's sign, up to 20 rows: the others are their negatives. Beyond, the
    observed pattern and `draws` random ones. The observed sums are the very first row yielded.
    """
    if len(values) > EXACT_UP_TO:
        rng = np.random.default_rng(seed)
        yield values.sum(axis=0, keepdims=True)
        for start in range(0, draws, 2**BLOCK):
            signs = rng.integers(0, 2, size=(min(2**BLOCK, draws - start), len(values))) * 2.0 - 1.0
            yield signs @ values
        return
    inner = _sums(values[1 : 1 + BLOCK])
    for outer in _sums(values[1 + BLOCK :]):
        yield values[0] + outer + inner


def _sums(values: Floats) -> Floats:
    """Return the sums (2^k, m) of `values` (k, m) under every sign pattern, all signs kept first."""
    sums = np.zeros((1, values.shape[1]))
    for row in values:
        sums = np.concatenate([sums + row, sums - row])
    return sums
