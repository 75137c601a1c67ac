"""Inference over items: every item's difference, averaged over the runs that tested it; n is the number of items.

Items tested by the same run share that run's luck, and an item is as hard in one run as in the next: values of
(item, run) depend on each other in two ways. The sign-flip test over items answers for these trained models alone; the
interval over items and runs together answers for other items and other seeds, and nothing is significant that either
of the two does not say.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.design import EXACT_UP_TO
from orchestrator.statistics.estimates import Estimate, Floats, Interval, finite
from orchestrator.statistics.sign_flip import DRAWS, SLACK, flipped_sums, standardised

Outcomes: TypeAlias = Mapping[Hashable, Mapping[Hashable, float]]
"""A value for every item and every run that tested it: {item: {run: value}}; an item may lack runs, but not all."""

TWO_WAY = "t interval over items and runs together"
ONE_WAY = "t interval over items, from one run of each"


@dataclass(frozen=True)
class Spread:
    """The mean over items with its variance over items and runs together, and the degrees of freedom behind it.

    `values` (items,) are the items' own means. `runs` counts the runs; with one, nothing is known of their luck, and
    the variance is that over items alone.
    """

    values: Floats
    variance: float
    freedom: float
    runs: int

    @property
    def mean(self) -> float:
        """The mean over the items."""
        return float(self.values.mean())

    def estimate(self, level: float = 0.95) -> Estimate:
        """Return the mean with its t interval; no interval for a single item."""
        from scipy import stats

        n = len(self.values)
        if n < 2:
            return Estimate(self.mean, n)
        half = float(stats.t.ppf((1 + level) / 2, self.freedom)) * math.sqrt(self.variance)
        method = TWO_WAY if self.runs > 1 else ONE_WAY
        return Estimate(self.mean, n, Interval(self.mean - half, self.mean + half, level, method))

    def p(self, against: float = 0.0) -> float:
        """Return the two-sided p of "the mean is `against`", by the same t distribution as the interval."""
        from scipy import stats

        distance = abs(self.mean - against)
        if len(self.values) < 2 or distance == 0:
            return 1.0
        return float(2 * stats.t.sf(distance / math.sqrt(self.variance), self.freedom)) if self.variance else 0.0


@dataclass(frozen=True)
class ByItem:
    """A comparison paired by item.

    `p` is the larger of `p_items`, the two-sided sign-flip test over items (exact, or Monte Carlo), and `p_both`, that
    of the interval over items and runs together. `d_z` is the mean of the items' differences over their deviation.
    """

    spread: Spread
    estimate: Estimate
    p_items: float
    p_both: float
    is_exact: bool
    d_z: float | None

    @property
    def p(self) -> float:
        """The larger of the two p values."""
        return max(self.p_items, self.p_both)

    def p_within(self, margin: float) -> float:
        """Return the p of "the mean lies within `margin` of 0": the larger of two one-sided tests, doubled.

        Two one-sided t tests (Schuirmann 1987) over items and runs together, at the level of the two-sided interval.
        """
        if abs(self.spread.mean) >= margin:
            return 1.0
        return max(self.spread.p(margin), self.spread.p(-margin))


def paired_by_item(differences: Outcomes, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> ByItem:
    """Return the comparison of arm - baseline by item and run; ValueError without an item, or with one that is NaN."""
    spread = two_way(differences)
    p, is_exact = flip_items(spread.values, [len(runs) for runs in differences.values()], draws=draws, seed=seed)
    return ByItem(spread, spread.estimate(level), p, spread.p(), is_exact, standardised(spread.values))


def two_way(outcomes: Outcomes) -> Spread:
    """Return the mean over items with a variance that is robust to what items share and to what runs share.

    V(items) + V(runs) - V(item and run), each with the factor G / (G - 1) for its G clusters (Cameron, Gelbach &
    Miller 2011, eqs. 2.11-2.13): of a mean over crossed factors that is Owen's pigeonhole estimate (2007). It may fall
    below its parts by chance; the largest of the three is taken. The degrees of freedom are Satterthwaite's (1946) for
    the sum, no fewer than the smaller number of clusters less one, which is what Cameron & Miller (2015, VI.D) advise.
    """
    table, w = _table(outcomes)
    items, runs = table.shape
    known = np.isfinite(table)
    values = np.nanmean(table, axis=1)
    u = np.where(known, w * (table - values.mean()), 0.0)
    of_items, of_runs, of_both = u.sum(axis=1), u.sum(axis=0), u[known]
    if runs == 1 or items == 1:
        return Spread(values, _clustered(of_items), max(1, items - 1), runs)
    parts = np.array([_clustered(of_items), _clustered(of_runs), _clustered(of_both)])
    freedoms = np.array([items - 1, runs - 1, len(of_both) - 1])
    variance = float(max(parts[0], parts[1], parts[0] + parts[1] - parts[2]))
    spent = float((parts**2 / freedoms).sum())
    least = min(items, runs) - 1
    freedom = max(least, variance**2 / spent) if spent else least
    return Spread(values, variance, float(min(freedom, items - 1)) if freedom > least else float(least), runs)


def _clustered(sums: Floats) -> float:
    """Return the variance of a mean from the sums over its clusters (G,) of weighted residuals."""
    count = len(sums)
    return float((sums**2).sum()) * count / (count - 1) if count > 1 else math.nan


def _table(outcomes: Outcomes) -> tuple[Floats, Floats]:
    """Return the values (items, runs), NaN where a run did not test an item, and the weight of an item's values."""
    if not outcomes:
        raise ValueError("no item that both arms have answered")
    runs = {run: at for at, run in enumerate(dict.fromkeys(run for tests in outcomes.values() for run in tests))}
    table = np.full((len(outcomes), len(runs)), np.nan)
    for row, tests in enumerate(outcomes.values()):
        for run, value in zip(tests, finite(list(tests.values())), strict=True):
            table[row, runs[run]] = value
    counts = np.isfinite(table).sum(axis=1, keepdims=True)
    return table, 1.0 / (len(table) * counts)


def flip_items(
    values: ArrayLike, counts: list[int] | None = None, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, bool]:
    """Return the two-sided sign-flip p of the mean of `values` (n,), and whether it is exact.

    Exact where the values are whole parts of one (right or wrong answers, averaged over `counts` (n,) runs): the sums
    of all signs are then few and counted by convolution. Exact by enumeration where no more than 20 are not zero, for
    the sign of a zero makes no difference. Else `draws` random patterns, (1 + hits) / (1 + draws).
    """
    d = finite(values)
    whole = _whole(d, counts or [1])
    if whole is not None:
        return _by_convolution(whole), True
    d = d[d != 0]
    slack = SLACK * float(np.abs(d).sum())
    observed = abs(float(d.sum())) - slack
    hits = patterns = 0
    for sums in flipped_sums(d[:, None], draws=draws, seed=seed):
        hits, patterns = hits + int((np.abs(sums) >= observed).sum()), patterns + len(sums)
    return hits / patterns, len(d) <= EXACT_UP_TO


MOST_PARTS = 10_000
"""Sum of whole differences up to which their signs are convolved: 500 items of 20 runs each."""


def _whole(d: Floats, counts: list[int]) -> NDArray[np.int64] | None:
    """Return the values as whole numbers of one common part, or None if they are not; zeros are left out."""
    parts = math.lcm(*set(counts))
    scaled = np.rint(d * parts)
    if not np.allclose(scaled, d * parts, rtol=0, atol=1e-12) or np.abs(scaled).sum() > MOST_PARTS:
        return None
    whole: NDArray[np.int64] = scaled[scaled != 0].astype(np.int64)
    return whole


def _by_convolution(whole: NDArray[np.int64]) -> float:
    """Return P(|sum of randomly signed values| >= |their sum|), from the distribution of that sum."""
    total = int(np.abs(whole).sum())
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for size in np.abs(whole):
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    reached = np.abs(np.arange(-total, total + 1)) >= abs(int(whole.sum()))
    return min(1.0, float(chances[reached].sum()))
