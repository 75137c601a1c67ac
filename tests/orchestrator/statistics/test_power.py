"""Power against simulations of the very tests, and against what is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from orchestrator.design import needed_for_equivalence
from orchestrator.statistics import (
    equivalence,
    power_of_difference,
    power_of_equivalence,
    replicates_for,
    sign_flip,
    westfall_young,
)
from orchestrator.statistics.power import _largest_t


def correlated(rng, n, m, rho, d_z):
    shared = rng.normal(size=(n, 1))
    return np.sqrt(rho) * shared + np.sqrt(1 - rho) * rng.normal(size=(n, m)) + d_z


def simulated(decide, repeats=400):
    rng = np.random.default_rng(5)
    return float(np.mean([decide(rng) for _ in range(repeats)]))


@pytest.mark.parametrize("d_z", [0.8, 1.2, 2.0])
def test_six_pairs_are_within_nine_points_of_their_closed_form(d_z):
    """All six differences of one sign are the only data with p = 1/32; the next p is above .05."""
    exact = stats.norm.cdf(d_z) ** 6 + stats.norm.cdf(-d_z) ** 6
    assert power_of_difference(6, d_z) == pytest.approx(exact, abs=0.09)


@pytest.mark.parametrize(("n", "d_z"), [(8, 1.2), (10, 1.0), (12, 0.8)])
def test_power_is_that_of_the_exact_test(n, d_z):
    """400 simulations have a standard error of .025 at most."""
    found = simulated(lambda rng: sign_flip(rng.normal(d_z, 1, size=n)).p <= 0.05)
    assert power_of_difference(n, d_z) == pytest.approx(found, abs=0.08)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_power_in_a_family_is_that_of_westfall_young_with_one_real_difference(rho):
    effect = np.array([1.3, 0.0, 0.0])
    found = simulated(lambda rng: westfall_young(correlated(rng, 9, 3, rho, effect))[0] <= 0.05, 300)
    told = power_of_difference(9, 1.3, 3, method="westfall-young", correlation=rho)
    assert told == pytest.approx(found, abs=0.09)


def test_power_of_equivalence_is_that_of_the_two_one_sided_tests():
    found = simulated(lambda rng: equivalence(rng.normal(0, 1, size=10), 1.0).p <= 0.05, 300)
    assert power_of_equivalence(10, 1.0, 1.0) == pytest.approx(found, abs=0.09)


def test_the_quantile_of_the_largest_t_lies_between_one_comparison_and_sidak():
    one, sidak = stats.t.ppf(0.975, 9), stats.t.ppf(1 - (1 - 0.95 ** (1 / 3)) / 2, 9)
    assert _largest_t(10, 3, 0.05, 0.0) == pytest.approx(sidak, rel=1e-6)
    assert _largest_t(10, 1, 0.05, 0.5) == pytest.approx(one)
    values = [_largest_t(10, 3, 0.05, rho) for rho in (0.0, 0.5, 0.9, 0.99)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(one, rel=0.06)


def test_nothing_has_power_below_the_replicates_that_the_family_needs():
    assert power_of_difference(5, 9.0) == 0
    assert power_of_difference(7, 9.0, 4, method="holm") == 0
    assert power_of_difference(8, 9.0, 4, method="holm") > 0.9
    assert power_of_equivalence(needed_for_equivalence(4) - 1, 9.0, 0.1, 4) == 0


def test_replicates_for_is_the_least_with_the_power_and_none_where_there_is_none():
    need = replicates_for(lambda n: power_of_difference(n, 0.8))
    assert need is not None
    assert power_of_difference(need, 0.8) >= 0.8 > power_of_difference(need - 1, 0.8)
    # A two-sided t test at .05 with d_z .8 needs 15 pairs (Cohen 1988, interpolated); exact levels are smaller.
    assert need in (15, 16)
    assert replicates_for(lambda n: power_of_difference(n, 0.01)) is None
