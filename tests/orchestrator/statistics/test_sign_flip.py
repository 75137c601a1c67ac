from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.design import can_conclude, needed_replicates, smallest_p
from orchestrator.statistics import gap_closed, holm, mean_interval, ratio_of_means, sign_flip, steps_to_target

RNG = np.random.default_rng(7)
SAMPLES = [RNG.normal(0.3, 1, size=n) for n in (1, 2, 5, 6, 7, 9)] + [
    np.array([0.0, 0.0, 0.0]),
    np.array([1.0, -1.0, 2.0, 0.0, 1.0, 1.0]),
    np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
]


def by_hand(d: np.ndarray) -> float:
    """The definition: the share of all 2^n sign patterns with a sum at least as extreme."""
    sums = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=len(d))
    ]
    return sum(total >= abs(d.sum()) - 1e-9 for total in sums) / len(sums)


@pytest.mark.parametrize("d", SAMPLES, ids=str)
def test_p_is_the_share_of_sign_patterns_at_least_as_extreme(d):
    assert sign_flip(d).p == pytest.approx(by_hand(d), abs=1e-12)


@pytest.mark.parametrize("d", [sample for sample in SAMPLES if len(sample) > 1], ids=str)
def test_p_equals_scipys_exact_permutation_test(d):
    found = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(d).p == pytest.approx(found.pvalue, abs=1e-12)


@pytest.mark.parametrize("n", [6, 7, 8])
def test_the_interval_holds_exactly_what_the_test_does_not_reject(n):
    d = np.random.default_rng(n).gamma(2.0, size=n)
    interval = sign_flip(d).estimate.interval
    assert interval is not None
    width = interval.high - interval.low
    for value in np.linspace(interval.low - width / 2, interval.high + width / 2, 41):
        is_inside = interval.low <= value <= interval.high
        assert (by_hand(d - value) > 0.05) == is_inside, value
    for end, outward in ((interval.low, -1), (interval.high, 1)):
        assert by_hand(d - (end - outward * 1e-6)) > 0.05
        assert by_hand(d - (end + outward * 1e-6)) <= 0.05


def test_the_interval_of_six_pairs_is_their_range():
    d = np.array([0.3, -0.1, 0.8, 0.4, 0.6, 0.2])
    interval = sign_flip(d).estimate.interval
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((-0.1, 0.8))
    assert interval.method == "sign-flip test inverted"


def test_below_six_pairs_the_interval_is_a_t_interval_and_says_so():
    d = np.array([0.3, 0.1, 0.8, 0.4, 0.6])
    interval = sign_flip(d).estimate.interval
    reference = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert interval is not None
    assert interval.method == "Student t (5 pairs)"
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high))


def test_beyond_twenty_pairs_p_is_monte_carlo_and_the_same_each_time():
    d = np.random.default_rng(3).normal(0.45, 1, size=26)
    first, second = sign_flip(d, draws=20_000), sign_flip(d, draws=20_000)
    assert not first.is_exact
    assert first == second
    # For 26 normal differences the sign-flip p is close to the t test's; .003 is four standard errors of 20,000 draws.
    assert first.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.006)
    assert first.estimate.interval is not None
    assert (first.estimate.interval.low <= 0 <= first.estimate.interval.high) == (first.p > 0.05)


def test_twenty_pairs_are_still_enumerated():
    d = np.random.default_rng(5).normal(0.4, 1, size=20)
    assert sign_flip(d).is_exact
    assert sign_flip(d).p * 2**20 == pytest.approx(round(sign_flip(d).p * 2**20))


def test_the_smallest_p_is_reached_and_never_undercut():
    for n in range(1, 12):
        assert sign_flip(np.arange(1.0, n + 1)).p == smallest_p(n) == min(1.0, 2.0 ** (1 - n))


def test_coverage_and_false_positives_of_seven_skewed_symmetric_pairs_are_as_stated():
    rng = np.random.default_rng(11)
    draws = rng.laplace(1.0, 1.0, size=(1500, 7))
    tests = [sign_flip(d) for d in draws]
    covered = np.mean([t.estimate.interval.low <= 1.0 <= t.estimate.interval.high for t in tests])
    false = np.mean([sign_flip(d - 1.0).p <= 0.05 for d in draws])
    # 61 of 64 patterns: 95.3 %; four binomial standard errors of 1500 are 2.2 %.
    assert covered == pytest.approx(61 / 64, abs=0.022)
    assert false == pytest.approx(3 / 64, abs=0.022)
    assert covered == pytest.approx(1 - false)


def test_holm_equals_closed_testing_with_bonferroni():
    for p in ([0.01, 0.04, 0.03], [0.2, 0.001, 0.02, 0.02], [0.5], [0.9, 0.8]):
        m = len(p)
        subsets = [s for k in range(1, m + 1) for s in itertools.combinations(range(m), k)]
        closed = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s) for i in range(m)]
        assert holm(p) == pytest.approx(closed)


def test_a_family_needs_as_many_replicates_as_the_facts_say():
    assert [needed_replicates(m) for m in range(1, 7)] == [6, 7, 7, 8, 8, 8]
    assert not can_conclude(6, 2)
    assert can_conclude(7, 3)
    assert not can_conclude(0, 1)


def test_mean_interval_is_scipys_t_interval():
    x = RNG.normal(size=9)
    reference = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    found = mean_interval(x)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((reference.low, reference.high))
    assert mean_interval([3.0]).interval is None


def test_a_missing_value_is_refused_rather_than_averaged():
    with pytest.raises(ValueError, match="missing or infinite"):
        mean_interval([1.0, math.nan])


def test_a_ratio_with_a_constant_denominator_has_the_t_interval_divided():
    x = RNG.normal(5, 1, size=6)
    ratio, plain = ratio_of_means(x, np.full(6, 2.0)), mean_interval(x)
    assert ratio.interval is not None
    assert plain.interval is not None
    assert (ratio.mean, ratio.interval.low, ratio.interval.high) == pytest.approx(
        (plain.mean / 2, plain.interval.low / 2, plain.interval.high / 2)
    )


def test_fiellers_interval_covers_the_ratio_of_correlated_means():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(1500):
        shared = rng.normal(size=6)
        interval = ratio_of_means(4 + shared + rng.normal(0, 0.5, 6), 8 + shared + rng.normal(0, 0.5, 6)).interval
        hits += interval is not None and interval.low <= 0.5 <= interval.high
    assert hits / 1500 == pytest.approx(0.95, abs=0.022)


def test_a_denominator_that_may_be_zero_gives_no_interval():
    assert ratio_of_means([1.0, 2.0, 3.0], [-1.0, 0.5, 1.0]).interval is None


def test_gap_closed_is_a_ratio_of_means_and_not_a_mean_of_ratios():
    base, teacher, student = [3.0, 3.0], [2.0, 1.0], [2.5, 1.5]
    found = gap_closed(base, teacher, student, higher_is_better=False)
    assert found is not None
    assert found.mean == pytest.approx((3 - 2.0) / (3 - 1.5))
    assert found.mean != pytest.approx((0.5 / 1 + 1.5 / 2) / 2)


def test_gap_closed_is_refused_where_the_teacher_did_not_improve():
    assert gap_closed([1.0], [1.0], [0.9], higher_is_better=False) is None
    assert gap_closed([1.0], [1.2], [0.9], higher_is_better=False) is None
    found = gap_closed([0.1], [0.5], [0.4], higher_is_better=True)
    assert found is not None
    assert found.mean == pytest.approx(0.75)


def test_steps_to_target_are_censored_where_the_middle_run_never_got_there():
    assert str(steps_to_target([0, 10, 20, None], 40)) == "15"
    assert str(steps_to_target([10, None, None], 40)) == "> 40"
    assert str(steps_to_target([10, None], 40)) == "> 40"
    assert str(steps_to_target([0, 0, 0], 40)) == "0"
    some = steps_to_target([10, None, 20], 40)
    assert (some.reached, some.n, some.restricted.mean) == (2, 3, pytest.approx((10 + 20 + 40) / 3))


def test_d_z_is_the_mean_over_the_standard_deviation_and_undefined_without_spread():
    d = np.array([0.3, -0.1, 0.8, 0.4, 0.6, 0.2])
    assert sign_flip(d).d_z == pytest.approx(stats.ttest_rel(d, np.zeros(6)).statistic / math.sqrt(6))
    assert sign_flip([0.1 + 0.2, 0.3, 0.3]).d_z is None, "0.1 + 0.2 differs from 0.3 by rounding alone"
    assert sign_flip([0.3]).d_z is None
    assert sign_flip([]).d_z is None
