"""Inference over items: the sign test against scipy and an enumeration, the two-way variance against sums by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator.statistics import flip_items, paired_by_item, sign_flip, two_way


def outcomes(table: np.ndarray) -> dict:
    """{item: {run: value}} of a table (items, runs), without its NaN."""
    return {i: {r: x for r, x in enumerate(row) if not math.isnan(x)} for i, row in enumerate(table.tolist())}


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=11))
@settings(max_examples=60, deadline=None)
def test_right_and_wrong_answers_are_convolved_to_what_an_enumeration_gives(parts):
    d = np.array(parts) / 2
    sums = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=len(d))
    ]
    p, is_exact = flip_items(d, [2] * len(d))
    assert is_exact
    assert p == pytest.approx(sum(total >= abs(d.sum()) - 1e-9 for total in sums) / len(sums))


@pytest.mark.parametrize(("gained", "lost", "same"), [(9, 3, 60), (40, 22, 300), (1, 0, 80), (0, 0, 81), (30, 30, 21)])
def test_one_answer_an_item_is_mcnemars_exact_test(gained, lost, same):
    d = np.repeat([1.0, -1.0, 0.0], [gained, lost, same])
    p, is_exact = flip_items(d)
    assert is_exact
    assert p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0)


def test_losses_of_few_items_are_enumerated_and_of_many_drawn():
    rng = np.random.default_rng(0)
    few, many = rng.normal(0.3, 1, 15), rng.normal(0.25, 1, 81)
    assert flip_items(few) == (sign_flip(few).p, True)
    padded = np.concatenate([few, np.zeros(60)])
    assert flip_items(padded) == (sign_flip(few).p, True), "the sign of no difference makes no difference"
    p, is_exact = flip_items(many)
    reference = stats.permutation_test(
        (many,), np.mean, permutation_type="samples", n_resamples=100_000, rng=np.random.default_rng(1)
    )
    assert not is_exact
    assert p == pytest.approx(reference.pvalue, abs=4 * math.sqrt(p / 50_000))


def by_hand(table: np.ndarray) -> float:
    """Cameron, Gelbach & Miller's variance of the mean of item means, term by term, from pairs of cells."""
    known = ~np.isnan(table)
    means = np.nanmean(table, axis=1)
    cells = [(i, r, (table[i, r] - means.mean()) / (len(table) * known[i].sum())) for i, r in np.argwhere(known)]
    parts = {"item": 0.0, "run": 0.0, "both": 0.0}
    for (i, r, u), (j, s, v) in itertools.product(cells, cells):
        parts["item"] += u * v * (i == j)
        parts["run"] += u * v * (r == s)
        parts["both"] += u * v * (i == j and r == s)
    sizes = {"item": len(table), "run": table.shape[1], "both": len(cells)}
    item, run, both = (parts[name] * sizes[name] / (sizes[name] - 1) for name in ("item", "run", "both"))
    return float(max(item, run, item + run - both))


@pytest.mark.parametrize("is_in_folds", [False, True])
def test_the_variance_is_the_sum_over_pairs_of_cells_that_share_an_item_or_a_run(is_in_folds):
    rng = np.random.default_rng(3)
    table = rng.normal(size=(12, 1)) + rng.normal(size=(1, 6)) + rng.normal(size=(12, 6))
    if is_in_folds:  # items 0, 3, 6, ... are tested by runs 0 and 1 alone
        table[np.arange(12)[:, None] % 3 != np.arange(6)[None] // 2] = np.nan
    spread = two_way(outcomes(table))
    assert spread.variance == pytest.approx(by_hand(table))
    assert spread.mean == pytest.approx(np.nanmean(table, axis=1).mean())
    assert spread.runs == 6


def test_the_variance_of_crossed_factors_is_right_on_average():
    """Items, runs and cells with variances 1, .3 and 2: of the mean of 30 items x 4 runs 1/30 + .3/4 + 2/120."""
    rng = np.random.default_rng(5)

    def drawn() -> float:
        a, b, c = rng.normal(0, 1, (30, 1)), rng.normal(0, math.sqrt(0.3), (1, 4)), rng.normal(0, math.sqrt(2), (30, 4))
        return two_way(outcomes(a + b + c)).variance

    found = np.array([drawn() for _ in range(800)])
    error = found.std() / math.sqrt(len(found))
    assert found.mean() == pytest.approx(1 / 30 + 0.3 / 4 + 2 / 120, abs=4 * error)


def test_one_run_is_the_t_interval_over_items():
    values = np.random.default_rng(2).normal(0.2, 1, 40)
    found = paired_by_item(outcomes(values[:, None]))
    plain = stats.ttest_1samp(values, 0)
    interval = plain.confidence_interval()
    assert (found.estimate.interval.low, found.estimate.interval.high) == pytest.approx((interval.low, interval.high))
    assert found.p_both == pytest.approx(plain.pvalue)
    assert found.p == max(found.p_items, found.p_both)


def test_repeating_a_run_adds_no_item_and_no_certainty():
    values = np.random.default_rng(2).normal(0.2, 1, (40, 1))
    once, thrice = two_way(outcomes(values)), two_way(outcomes(np.repeat(values, 3, axis=1)))
    assert len(thrice.values) == len(once.values) == 40
    assert thrice.variance == pytest.approx(once.variance)


def test_a_runs_luck_widens_the_interval_and_the_order_of_items_and_runs_does_not_matter():
    rng = np.random.default_rng(7)
    table = rng.normal(size=(60, 4))
    lucky = table + np.array([0.5, -0.5, 0.8, -0.8])
    assert two_way(outcomes(lucky)).variance > 5 * two_way(outcomes(table)).variance
    assert two_way(outcomes(lucky)).freedom < two_way(outcomes(table)).freedom
    turned = two_way(outcomes(lucky[::-1, ::-1]))
    assert turned.variance == pytest.approx(two_way(outcomes(lucky)).variance)
    assert two_way(outcomes(-2 * lucky)).variance == pytest.approx(4 * turned.variance)


def test_within_a_margin_is_two_one_sided_t_tests():
    values = np.random.default_rng(2).normal(0.02, 0.2, 60)
    found = paired_by_item(outcomes(values[:, None]))
    low, high = (stats.ttest_1samp(values, m, alternative=a).pvalue for m, a in ((-0.1, "greater"), (0.1, "less")))
    assert found.p_within(0.1) == pytest.approx(2 * max(low, high))
    assert found.p_within(0.001) == 1.0


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_p_and_interval_over_items_and_runs_never_disagree(level):
    rng = np.random.default_rng(11)
    for _ in range(40):
        found = paired_by_item(
            outcomes(rng.normal(0.15, 1, (25, 3)) + rng.normal(0, 0.2, (1, 3))), level=level, draws=50
        )
        interval = found.estimate.interval
        assert (found.p_both > 1 - level) == (interval.low < 0 < interval.high)


def test_no_difference_at_all_has_p_one_and_an_interval_of_no_width():
    found = paired_by_item(outcomes(np.zeros((20, 3))))
    assert (found.p, found.estimate.mean, found.estimate.interval.low, found.d_z) == (1.0, 0.0, 0.0, None)


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="no item that both arms have answered"):
        paired_by_item({})
    with pytest.raises(ValueError, match="missing or infinite"):
        paired_by_item({"a": {0: math.inf}, "b": {0: 1.0}})
    assert paired_by_item({"a": {0: 1.0}}).estimate.interval is None
