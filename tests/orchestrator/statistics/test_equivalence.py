from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.statistics import equivalence, interaction, non_inferiority, one_sided, sign_flip, westfall_young
from orchestrator.statistics import smallest_not_inferior as smallest


@pytest.mark.parametrize("alternative", ["less", "greater"])
@pytest.mark.parametrize("n", [1, 4, 7, 10])
def test_one_sided_p_is_scipys_exact_permutation_test(alternative, n):
    d = np.random.default_rng(n).normal(0.2, 1, size=n)
    if n == 1:
        # scipy wants two observations: one has two signs.
        assert one_sided(d, alternative) == (0.5 if (d[0] > 0) == (alternative == "greater") else 1.0)
        return
    found = stats.permutation_test(
        (d - 0.3,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
    )
    assert one_sided(d, alternative, value=0.3) == pytest.approx(found.pvalue, abs=1e-12)


@pytest.mark.parametrize("n", [6, 7, 8, 9])
def test_equivalent_means_exactly_that_the_interval_lies_within_the_margin(n):
    """Tested on 60 random samples and margins around the interval's far end, where the decision turns."""
    rng = np.random.default_rng(n)
    decisions = set()
    for _ in range(60):
        d = rng.gamma(2.0, size=n) - rng.uniform(1, 3)
        interval = sign_flip(d).estimate.interval
        assert interval is not None
        margin = max(abs(interval.low), abs(interval.high)) * rng.uniform(0.9, 1.1)
        within = -margin < interval.low and interval.high < margin
        found = equivalence(d, margin)
        assert (found.p <= 0.05) == within
        assert (non_inferiority(d, margin, higher_is_better=False) <= 0.05) == (interval.high < margin)
        assert (non_inferiority(d, margin, higher_is_better=True) <= 0.05) == (interval.low > -margin)
        decisions.add(within)
    assert decisions == {True, False}


def test_five_pairs_are_never_equivalent_and_six_can_be():
    assert equivalence(np.zeros(5), 10.0).p == pytest.approx(1 / 16)
    assert equivalence(np.zeros(6), 10.0).p == pytest.approx(1 / 32)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_has_to_be_a_positive_number(margin):
    with pytest.raises(ValueError, match="above 0"):
        equivalence([0.1, 0.2], margin)


def test_the_smallest_rank_not_inferior_is_found_from_the_largest_down_and_no_rank_is_skipped():
    close, far = np.linspace(-0.01, 0.02, 6), np.linspace(0.4, 0.6, 6)
    assert smallest({4: far, 16: close, 64: close}, 0.1, higher_is_better=False) == 16
    assert smallest({4: close, 16: far, 64: close}, 0.1, higher_is_better=False) == 64
    assert smallest({4: close, 16: close, 64: far}, 0.1, higher_is_better=False) is None
    assert smallest({4: far, 16: far}, 0.1, higher_is_better=True) == 4, "a student above the teacher is not inferior"


def test_an_interaction_of_two_ranks_is_the_sign_flip_test_of_their_difference():
    d = np.random.default_rng(3).normal([0.0, 1.0], size=(7, 2))
    found, plain = interaction(d, [2, 3]), sign_flip(d[:, 1] - d[:, 0])
    assert found.p == pytest.approx(plain.p)
    assert found.trend.p == pytest.approx(plain.p)
    assert found.trend.estimate.mean == pytest.approx(plain.estimate.mean)


def test_the_trend_is_the_mean_of_the_least_squares_slopes():
    ranks, d = [4, 8, 16, 32], np.random.default_rng(6).normal(size=(6, 4))
    slopes = [stats.linregress(np.log2(ranks), row).slope for row in d]
    trend, plain = interaction(d, np.log2(ranks).tolist()).trend, sign_flip(slopes)
    assert (trend.p, trend.estimate.mean, trend.d_z) == pytest.approx((plain.p, np.mean(slopes), plain.d_z))


def test_a_difference_that_is_the_same_at_every_rank_shows_no_interaction_however_large_it_is():
    d = np.repeat(np.random.default_rng(1).normal(5, 1, size=(8, 1)), 4, axis=1)
    assert interaction(d, [2, 3, 4, 5]).p == 1.0
    grows = d + np.array([0.0, 0.5, 1.0, 1.5]) + np.random.default_rng(2).normal(0, 0.1, size=(8, 4))
    assert interaction(grows, [2, 3, 4, 5]).p == 2**-7
    assert interaction(grows, [2, 3, 4, 5]).trend.estimate.mean == pytest.approx(0.5, abs=0.1)


def test_interaction_holds_its_level_where_ranks_differ_in_variance():
    rng = np.random.default_rng(10)
    draws = rng.normal(size=(800, 6, 4)) * [0.1, 0.5, 1.0, 4.0] + rng.normal(size=(800, 6, 1))
    errors = sum(interaction(d, [2, 3, 4, 5]).p <= 0.05 for d in draws)
    # Below .05 exactly (1/32); the 99 % upper limit of 800 draws at 1/32 is 39.
    assert stats.binom.sf(errors - 1, 800, 1 / 32) > 0.005
    assert errors > 0


@pytest.mark.parametrize(("table", "scores"), [([[1.0, 2.0]], [1.0]), ([[1.0]], [1.0]), ([[1.0, 2.0]], [3.0, 3.0])])
def test_an_interaction_needs_two_ranks_with_scores(table, scores):
    with pytest.raises(ValueError, match="two ranks"):
        interaction(np.array(table), scores)


def test_the_first_step_of_the_family_is_what_interaction_reports():
    d = np.random.default_rng(12).normal(size=(7, 3))
    assert interaction(d, [1, 2, 3]).p == min(westfall_young(d - d.mean(axis=1, keepdims=True)))
