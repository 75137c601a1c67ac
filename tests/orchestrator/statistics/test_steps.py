from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.statistics import Hit, common_horizon, first_hit, kaplan_meier, logrank

NAN = math.nan


def hit(by=None, after=0.0, last=40.0, is_diverged=False):
    return Hit(by, after, last, is_diverged)


def test_a_hit_lies_between_two_evaluations_and_a_hit_at_step_0_is_0():
    assert first_hit([0, 10, 20], [3.0, 1.2, 0.9], 1.0, higher_is_better=False) == Hit(20, 10, 20)
    assert first_hit([0, 10], [0.9, 0.8], 1.0, higher_is_better=False) == Hit(0, 0, 10)
    assert first_hit([5, 10], [0.9, 0.8], 1.0, higher_is_better=False) == Hit(5, 0, 10)
    assert first_hit([0, 10], [3.0, 1.0], 1.0, higher_is_better=False) == Hit(10, 0, 10), "the target itself is a hit"


def test_a_run_that_never_gets_there_has_no_hit():
    assert first_hit([0, 10, 20], [3.0, 2.0, 1.5], 1.0, higher_is_better=False) == Hit(None, 20, 20)
    assert first_hit([0, 10], [0.1, 0.4], 0.5, higher_is_better=True).by is None
    assert first_hit([0, 10], [0.1, 0.6], 0.5, higher_is_better=True) == Hit(10, 0, 10)


def test_the_first_hit_of_a_curve_that_rises_again_counts_and_is_marked():
    found = first_hit([0, 10, 20, 30], [3.0, 0.9, 1.4, 0.8], 1.0, higher_is_better=False)
    assert (found.by, found.after, found.left_again) == (10, 0, True)


def test_a_curve_that_ends_in_nan_has_diverged_and_holes_are_no_evaluations():
    found = first_hit([0, 10, 20], [3.0, 2.0, NAN], 1.0, higher_is_better=False)
    assert found == Hit(None, 10, 10, is_diverged=True)
    holed = first_hit([0, 10, 20], [3.0, NAN, 0.5], 1.0, higher_is_better=False)
    assert holed == Hit(20, 0, 20)
    assert first_hit([0], [NAN], 1.0, higher_is_better=False) == Hit(None, 0, 0, is_diverged=True)


def test_the_horizon_is_where_the_shortest_open_run_ends():
    assert common_horizon([hit(10, last=10), hit(last=30), hit(last=40)]) == 30, (
        "a run that stopped at its hit is known"
    )
    assert common_horizon([hit(last=5, is_diverged=True), hit(last=40)]) == 40, "a diverged run will never hit"
    assert common_horizon([hit(10, last=20), hit(20, last=40)]) == 40


def test_kaplan_meier_by_hand_with_a_run_that_stopped_early():
    """Freireich's scheme in small: hits at 10 and 30, one run censored at 20, one never within 40."""
    hits = [hit(10), hit(last=20), hit(30), hit()]
    curve = kaplan_meier(hits, 40)
    assert curve.steps == (10, 20, 30, 40)
    assert curve.share == pytest.approx((3 / 4, 3 / 4, 3 / 4 * 1 / 2, 3 / 4 * 1 / 2))
    assert curve.restricted_mean == pytest.approx(10 * 1 + 20 * 0.75 + 10 * 0.375)


def test_without_early_stops_the_area_is_the_mean_of_the_restricted_steps():
    rng = np.random.default_rng(5)
    for _ in range(20):
        hits = [hit(float(step)) if step <= 40 else hit() for step in rng.integers(0, 60, size=9)]
        expected = np.mean([h.restricted(40) for h in hits])
        assert kaplan_meier(hits, 40).restricted_mean == pytest.approx(expected)


def test_a_hit_beyond_the_horizon_is_censored_there():
    assert hit(50).restricted(40) == 40
    assert kaplan_meier([hit(50, last=60), hit(10)], 40).share[-1] == 0.5


def test_the_earliest_place_of_a_hit_bounds_its_step_from_below():
    assert Hit(20, 10, 40).restricted(40, earliest=True) == 10
    assert Hit(20, 10, 40).restricted(40) == 20
    assert Hit(None, 40, 40).restricted(40, earliest=True) == 40


def test_logrank_is_scipys_with_diverged_runs_censored_at_the_horizon():
    ours, theirs = [hit(10), hit(12), hit(15), hit(8)], [hit(30), hit(), hit(last=3, is_diverged=True), hit(35)]
    right = stats.CensoredData(uncensored=[30, 35], right=[40, 40])
    expected = stats.logrank([10, 12, 15, 8], right).pvalue
    assert logrank(ours, theirs, 40) == pytest.approx(expected)


def test_kaplan_meier_of_freireichs_leukaemia_patients_is_the_textbooks():
    """Freireich et al. 1963, as in Collett's and Kleinbaum's books: 21 on 6-MP (12 censored), 21 on placebo."""
    ended, censored = [6, 6, 6, 7, 10, 13, 16, 22, 23], [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    treated = [hit(float(t)) for t in ended] + [hit(last=float(t)) for t in censored]
    placebo = [hit(float(t)) for t in (1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23)]
    curve = kaplan_meier(treated, 35)
    share = dict(zip(curve.steps, curve.share, strict=True))
    printed = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    assert {step: round(share[step], 3) for step in printed} == printed
    # The log-rank chi-square is 16.79 on one degree of freedom.
    assert logrank(treated, placebo, 35) == pytest.approx(stats.chi2.sf(16.79, 1), rel=0.01)
