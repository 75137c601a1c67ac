from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from orchestrator.design import needed_replicates, smallest_adjusted_p
from orchestrator.statistics import adjust, holm, method_for, sign_flip, westfall_young


def patterns(n: int) -> np.ndarray:
    return np.array(list(itertools.product((1.0, -1.0), repeat=n)))


def studentised(d: np.ndarray) -> np.ndarray:
    """|t| of every column as scipy computes it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(stats.ttest_1samp(d, 0, axis=0).statistic)


def closed_testing(d: np.ndarray) -> list[float]:
    """The definition: a hypothesis' p is the largest of the max-|t| tests of all sets that hold it."""
    n, m = d.shape
    flipped = np.array([studentised(signs[:, None] * d) for signs in patterns(n)])
    observed = studentised(d)
    found = [0.0] * m
    for size in range(1, m + 1):
        for chosen in map(list, itertools.combinations(range(m), size)):
            p = float(np.mean(flipped[:, chosen].max(axis=1) >= observed[chosen].max() * (1 - 1e-9)))
            found = [max(found[j], p) if j in chosen else found[j] for j in range(m)]
    return found


@pytest.mark.parametrize(("n", "m", "seed"), [(5, 2, 0), (6, 3, 1), (7, 4, 2), (6, 5, 3)])
def test_westfall_young_equals_closed_testing_with_the_max_t_of_every_subset(n, m, seed):
    rng = np.random.default_rng(seed)
    d = rng.normal(0.6, 1, size=(n, m)) + rng.normal(size=(n, 1))
    assert westfall_young(d) == pytest.approx(closed_testing(d), abs=1e-12)


def test_westfall_young_of_one_comparison_is_the_sign_flip_test_and_scipys():
    d = np.random.default_rng(4).gamma(1.5, size=8) - 0.7
    scipys = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert [*westfall_young(d[:, None]), sign_flip(d).p] == pytest.approx([scipys] * 2)


def test_the_most_extreme_of_westfall_youngs_p_is_scipys_permutation_test_of_the_largest_t():
    d = np.random.default_rng(9).normal(0.4, 1, size=(7, 3))

    def largest(rows: np.ndarray, axis: int) -> np.ndarray:
        # scipy flips whole rows: it is given their numbers 1..n, and the sign says which are flipped.
        rows = np.moveaxis(np.asarray(rows), axis, -1)
        table = np.sign(rows)[..., None] * d[np.abs(rows).astype(int) - 1]
        return np.abs(table.mean(axis=-2) / table.std(axis=-2, ddof=1)).max(axis=-1)

    found = stats.permutation_test(
        (np.arange(1.0, 8),),
        largest,
        permutation_type="samples",
        n_resamples=np.inf,
        alternative="greater",
        vectorized=True,
    )
    assert min(westfall_young(d)) == pytest.approx(found.pvalue, abs=1e-12)


def test_six_shared_replicates_suffice_for_any_number_of_comparisons_and_five_do_not():
    rng = np.random.default_rng(1)
    for m in (1, 3, 8):
        agreed = rng.uniform(1, 2, size=(6, m))
        assert westfall_young(agreed) == [smallest_adjusted_p(6, m, "westfall-young")] * m == [1 / 32] * m
        assert min(westfall_young(agreed[:5])) == 1 / 16 > 0.05


def test_more_than_twenty_replicates_are_monte_carlo_reproducible_and_near_the_t_test():
    d = np.random.default_rng(3).normal(0.45, 1, size=(26, 1))
    first = westfall_young(d, draws=20_000)
    assert first == westfall_young(d, draws=20_000)
    assert first[0] == pytest.approx(float(stats.ttest_1samp(d[:, 0], 0).pvalue), abs=0.006)


def test_enumeration_in_blocks_is_the_same_as_by_hand():
    """16 rows are two blocks of 2^14 patterns; a Monte Carlo p of 200,000 draws is within .005 of the exact one."""
    d = np.random.default_rng(8).normal(0.3, 1, size=(16, 2))
    exact = westfall_young(d)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(200_000, 16))
    scaled = d / np.sqrt((d**2).sum(axis=0))
    observed, most = np.abs(scaled.sum(axis=0)), np.abs(signs @ scaled)
    first = int(np.argmax(observed))
    assert exact[first] == pytest.approx(float(np.mean(most.max(axis=1) >= observed[first])), abs=0.005)
    assert exact[first] * 2**15 == pytest.approx(round(exact[first] * 2**15))


def test_a_column_of_zeros_is_never_significant_and_costs_the_others_nothing():
    d = np.array([[1.0, 0.0], [2.0, 0.0], [1.5, 0.0], [1.2, 0.0], [1.1, 0.0], [0.9, 0.0]])
    assert westfall_young(d) == [1 / 32, 1.0]


def test_a_missing_value_is_refused():
    with pytest.raises(ValueError, match="without a missing"):
        westfall_young([[1.0, np.nan], [1.0, 2.0]])


def family(table: np.ndarray) -> list[dict[int, float]]:
    return [dict(enumerate(map(float, column))) for column in table.T]


def test_comparisons_that_share_their_replicates_flip_together_and_the_reason_says_so():
    table = np.random.default_rng(2).normal(1, 0.5, size=(6, 5))
    found = adjust(family(table))
    assert found.method == "westfall-young"
    assert found.reason == "the 5 comparisons share their 6 replicates"
    assert found.p == pytest.approx(westfall_young(table))


def test_replicates_are_matched_by_key_and_not_by_order():
    table = np.random.default_rng(2).normal(1, 0.5, size=(6, 2))
    first, second = family(table)
    backwards = dict(reversed(second.items()))
    assert adjust([first, backwards]).p == adjust([first, second]).p


def test_comparisons_that_lack_replicates_are_adjusted_by_holm_and_the_reason_counts_them():
    first, second, third = family(np.random.default_rng(5).normal(1, 0.5, size=(8, 3)))
    del second[0]
    found = adjust([first, second, third])
    assert (found.method, found.reason) == ("holm", "1 of 3 comparisons lack replicates that others have")
    assert found.p == pytest.approx(holm([sign_flip(list(d.values())).p for d in (first, second, third)]))


def test_a_comparison_without_a_pair_stays_in_the_family_and_gets_no_p():
    (first,) = family(np.ones((8, 1)))
    found = adjust([first, {}])
    assert found.p == [2 * 2**-7, None]
    assert adjust([first]).p == [2**-7]
    assert adjust([first]).method == "none"


def test_the_rule_needs_replicates_only():
    assert method_for([frozenset({1, 2}), frozenset({3, 4})])[0] == "holm"
    assert method_for([frozenset({1, 2}), frozenset({1, 2})])[0] == "westfall-young"
    assert method_for([frozenset(), frozenset()]) == ("holm", "no comparison has a replicate")


@pytest.mark.parametrize("m", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("shared", [True, False])
def test_the_best_possible_data_are_significant_at_the_needed_replicates_and_not_below(m, shared):
    """Differences all of one sign give the smallest p there is; under Holm every comparison has keys of its own."""
    method = "none" if m == 1 else "westfall-young" if shared else "holm"
    need = needed_replicates(m, method=method)
    for n, expected in ((need, True), (need - 1, False)):
        values = [{i if shared else (j, i): 1.0 + 0.1 * i for i in range(n)} for j in range(m)]
        found = adjust(values)
        assert found.method == method
        assert min(found.p) == pytest.approx(smallest_adjusted_p(n, m, method))
        assert (min(found.p) <= 0.05) is expected
