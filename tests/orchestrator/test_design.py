from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.design import (
    Look,
    can_conclude,
    can_conclude_at,
    needed_for_equivalence,
    needed_replicates,
    share_alpha,
    spread,
)
from orchestrator.statistics import equivalence, holm, sign_flip


def test_the_facts_numbers_of_replicates():
    assert [needed_replicates(m) for m in range(1, 7)] == [6, 7, 7, 8, 8, 8]
    assert [needed_replicates(m, method="westfall-young") for m in (1, 3, 20)] == [6, 6, 6]
    assert not can_conclude(0, 1, method="westfall-young")


@pytest.mark.parametrize("method", ["westfall-young", "holm"])
@pytest.mark.parametrize("m", range(1, 7))
@pytest.mark.parametrize("looks", [1, 2, 3])
def test_needed_is_the_least_that_can(method, m, looks):
    need = needed_replicates(m, method=method, looks=looks)
    assert can_conclude_at(share_alpha(spread(need, looks), method=method), m, method=method)
    fewer = range(looks, need)
    assert not any(can_conclude_at(share_alpha(spread(n, looks), method=method), m, method=method) for n in fewer)


def test_the_spending_is_lan_and_demets_obrien_fleming_like():
    """Without passing on, levels are the steps of 2 - 2 Phi(1.96 / sqrt t), and add up to alpha."""
    looks = share_alpha([8, 12, 16], method="holm")
    total = [2 * stats.norm.sf(stats.norm.isf(0.025) / math.sqrt(n / 16)) for n in (8, 12, 16)]
    assert [look.level for look in looks] == pytest.approx(np.diff([0, *total]))
    assert sum(look.level for look in looks) == pytest.approx(0.05)


@pytest.mark.parametrize("sizes", [[6, 7, 8], [8, 10, 12], [6, 9, 12, 15], list(range(6, 13)), [20, 40]])
def test_what_exact_tests_can_spend_at_all_looks_together_is_at_most_alpha(sizes):
    spent = sum(math.floor(look.level * 2 ** (look.n - 1) + 1e-9) / 2 ** (look.n - 1) for look in share_alpha(sizes))
    passed = sum(
        math.floor(look.level * 2 ** (look.n - 1) + 1e-9) / 2 ** (look.n - 1)
        for look in share_alpha(sizes, method="westfall-young")
    )
    assert spent <= passed <= 0.05 + 1e-12


def test_one_look_has_all_of_alpha():
    assert share_alpha([7], 0.01) == (Look(7, 0.01),)


@pytest.mark.parametrize("sizes", [[], [0, 4], [8, 6], [6, 6]])
def test_looks_that_do_not_increase_are_refused(sizes):
    with pytest.raises(ValueError, match="increasing"):
        share_alpha(sizes)


def test_every_path_of_signs_taken_together_errs_with_at_most_alpha():
    """By enumeration: all 2^10 sign patterns of ten given differences, three looks, any rejection counts."""
    sizes = np.random.default_rng(0).gamma(1.0, size=10)
    looks = share_alpha([6, 8, 10], method="none")
    rejected = naive = 0
    for signs in itertools.product((1, -1), repeat=10):
        p = [sign_flip((np.array(signs) * sizes)[: look.n]).p for look in looks]
        rejected += any(value <= look.level for value, look in zip(p, looks, strict=True))
        naive += min(p) <= 0.05
    assert 0 < rejected / 2**10 <= 0.05
    assert naive / 2**10 > 0.05, "looks that do not share alpha err more often: the test can fail"


@pytest.mark.parametrize("m", range(1, 7))
def test_equivalence_is_possible_at_the_needed_pairs_and_not_below(m):
    """The best data there are: no difference at all, and a margin far away."""
    need = needed_for_equivalence(m)
    adjusted = {n: max(holm([equivalence(np.zeros(n), 9.0).p] * m)) for n in (need - 1, need)}
    assert adjusted[need] <= 0.05 < adjusted[need - 1]
