"""How many replicates would decide? Power of the family's tests, computed for normal differences.

There is no closed form for an exact sign-flip test. Its power is that of the t test at the level that the exact test
attains (it rejects at multiples of 2^(1-n) only), by the noncentral t distribution; at six to eight pairs this is up to
eight points too high, from ten on within three (tests/orchestrator/statistics/test_power.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from orchestrator.design import Method, attained

POWER = 0.8
LARGEST = 200
"""Replicates up to which a number is looked for."""
NODES = 400
"""Equally likely values that stand for the distribution of a standard deviation."""


def power_of_difference(
    n: int, d_z: float, m: int = 1, *, method: Method = "none", alpha: float = 0.05, correlation: float = 0.0
) -> float:
    """Return the chance that one of `m` comparisons with n pairs and a true effect `d_z` is significant.

    At the first step of the adjustment, which asks most: under Holm alpha / m, under Westfall-Young the quantile of
    the largest of m |t| with this correlation (0 to 1, the same between all of them).
    """
    from scipy import stats

    level = attained(alpha / m if method == "holm" else alpha, n)
    if n < 2 or level <= 0:
        return 0.0
    critical = _largest_t(n, m, level, correlation) if method == "westfall-young" else _t(1 - level / 2, n)
    return float(stats.nct.sf(critical, n - 1, abs(d_z) * math.sqrt(n)))


def power_of_equivalence(n: int, margin: float, sd: float, m: int = 1, *, alpha: float = 0.05) -> float:
    """Return the chance that a difference of zero is shown to lie within `margin`; `sd` is that of the differences.

    Two one-sided tests at alpha / 2, over m by Holm; the mean over the distribution of the sample's own sd (as in Owen
    1965) of the normal probability that the whole interval lies inside.
    """
    from scipy import stats

    level = attained(alpha / m, n)
    if n < 2 or level <= 0:
        return 0.0
    shares = (np.arange(NODES) + 0.5) / NODES
    spread = sd * np.sqrt(stats.chi2.ppf(shares, n - 1) / (n - 1))
    room = margin * math.sqrt(n) - _t(1 - level / 2, n) * spread
    inside = 2 * stats.norm.cdf(np.maximum(room, 0.0) / sd) - 1 if sd > 0 else (room > 0) * 1.0
    return float(inside.mean())


def replicates_for(power: Callable[[int], float], least: int = 2, *, wanted: float = POWER) -> int | None:
    """Return the least number of replicates, from `least` on, with this power; None if 200 do not suffice."""
    return next((n for n in range(max(2, least), LARGEST + 1) if power(n) >= wanted), None)


def _t(share: float, n: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(share, n - 1))


def _largest_t(n: int, m: int, level: float, correlation: float) -> float:
    """Return c with P(max of m |t| > c) = level, the t having one correlation and each its own denominator."""
    from scipy import optimize

    low, high = _t(1 - level / 2, n), _t(1 - level / (2 * m), n)
    if m == 1 or high - low < 1e-9:
        return low
    found = optimize.brentq(lambda c: _none_larger(c, n, m, correlation) - (1 - level), low - 1e-9, high + 1e-6)
    return float(found)


def _none_larger(c: float, n: int, m: int, correlation: float) -> float:
    """Return P(all of m |t| <= c): given what they share (Gauss-Hermite), each t is independent of the others.

    A t is taken through the normal quantile of its own probability, so that its margin is exactly Student's.
    """
    from scipy import stats

    rho = min(max(correlation, 0.0), 0.999)
    limit = stats.norm.ppf(stats.t.cdf(c, n - 1))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    upper = stats.norm.cdf((limit - math.sqrt(rho) * nodes) / math.sqrt(1 - rho))
    lower = stats.norm.cdf((-limit - math.sqrt(rho) * nodes) / math.sqrt(1 - rho))
    return float((weights * (upper - lower) ** m).sum() / weights.sum())
