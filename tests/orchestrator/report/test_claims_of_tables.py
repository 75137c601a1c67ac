"""From a table to verdicts: what n allows, by either method, and what looks and margins change."""

from __future__ import annotations

import pandas as pd
import pytest

from orchestrator.design import needed_replicates
from orchestrator.errors import UserError
from orchestrator.report.summary import Summary
from orchestrator.statistics import equivalence, sign_flip
from tests.orchestrator.report.made_up import of_the_table, students


def better(rank, init, seed):
    """SVD is better by about a half, as clearly as n pairs can show it."""
    return 1.5 + 0.01 * seed + 0.001 * rank - (0.5 + 0.003 * seed if init == "svd" else 0.0)


def tied(rank, init, seed):
    return 1.5 + 0.01 * seed + (0.004 * (-1) ** seed if init == "svd" else 0.0)


def words(summary: Summary) -> set[str]:
    return {item.verdict for item in summary.differences}


def shared(n):
    return lambda rank: range(1, n + 1)


def apart(n):
    """Every rank has seeds of its own: comparisons that share no replicate."""
    return lambda rank: range(100 * rank + 1, 100 * rank + n + 1)


@pytest.mark.parametrize("m", range(1, 7))
@pytest.mark.parametrize(("seeds", "method"), [(shared, "westfall-young"), (apart, "holm")])
def test_supported_is_impossible_below_the_facts_number_and_possible_at_it(m, seeds, method, tmp_path):
    """facts: Westfall-Young needs 6 whatever the family; Holm 6 for one comparison, 7 for two or three, 8 to six."""
    need = 6 if m == 1 or method == "westfall-young" else 7 if m <= 3 else 8
    assert need == needed_replicates(m, method=method)
    ranks = [2**k for k in range(1, m + 1)]
    below = of_the_table(students(ranks, seeds(need - 1), better), tmp_path)
    at = of_the_table(students(ranks, seeds(need), better), tmp_path)
    assert at.method == (method if m > 1 else "none")
    assert words(below) == {"under-powered by design"}, "with the clearest data there are"
    assert words(at) == {"supported"}
    assert at.design_note == ""
    assert "under-powered" in below.design_note.lower()
    assert f"{need} pairs could" in below.design_note


def test_p_in_a_shared_family_is_not_multiplied_and_apart_it_is(tmp_path):
    ranks = (4, 16, 64)
    by_flips = of_the_table(students(ranks, shared(7), better), tmp_path).differences
    by_holm = of_the_table(students(ranks, apart(7), better), tmp_path).differences
    assert [item.p_adjusted for item in by_flips] == [2**-6] * 3
    assert [item.p_adjusted for item in by_holm] == [3 * 2**-6] * 3
    assert {item.adjusted_by for item in by_flips + by_holm} == {"westfall-young", "holm"}


def test_a_lost_run_leaves_holm_and_its_reason(tmp_path):
    table = students((4, 16), shared(8), better)
    table.loc[(table["run_id"] == "svd-4-3"), ["status", "test_loss"]] = ["oom", None]
    found = of_the_table(table, tmp_path)
    assert found.method == "westfall-young", "the design shares its replicates"
    assert {item.adjusted_by for item in found.differences} == {"holm"}
    assert [len(item.pairs) for item in found.differences] == [7, 8]
    assert "by Holm" in found.differences[0].sentence


def test_the_effect_size_is_the_mean_over_the_standard_deviation_of_the_pairs(tmp_path):
    (found,) = of_the_table(students((4,), shared(6), better), tmp_path).differences
    assert found.d_z == sign_flip(found.pairs).d_z
    assert found.replicates == ["1", "2", "3", "4", "5", "6"]


def test_a_tie_within_a_declared_margin_is_equivalent_and_without_one_inconclusive(tmp_path):
    table = students((4,), shared(6), tied)
    assert words(of_the_table(table, tmp_path)) == {"inconclusive"}
    near = of_the_table(table, tmp_path, margin=0.05)
    assert words(near) == {"equivalent"}
    assert near.differences[0].p_equivalent == equivalence(near.differences[0].pairs, 0.05).p
    assert words(of_the_table(table, tmp_path, margin=0.001)) == {"inconclusive"}


def pending_after(n, rule=better):
    return lambda rank, init, seed: rule(rank, init, seed) if seed <= n else None


def test_between_looks_nothing_is_tested_and_at_a_look_its_own_level_holds(tmp_path):
    seeds, looks = shared(12), (8, 12)
    between = of_the_table(students((4,), seeds, pending_after(7)), tmp_path, looks=looks)
    assert words(between) == {"interim"}
    assert between.differences[0].p is None
    at = of_the_table(students((4,), seeds, pending_after(8)), tmp_path, looks=looks)
    assert words(at) == {"supported"}
    assert "0.05 is shared by 2 looks" in at.differences[0].sentence
    tie = of_the_table(students((4,), seeds, pending_after(8, tied)), tmp_path, looks=looks)
    assert words(tie) == {"interim"}
    assert tie.differences[0].p is not None


def test_looks_that_are_not_all_planned_yet_are_still_to_come(tmp_path):
    found = of_the_table(students((4,), shared(8), tied), tmp_path, looks=(8, 12))
    assert words(found) == {"interim"}
    assert found.differences[0].planned == 12
    assert "4 of 12 pairs are still to come" in found.differences[0].sentence


def test_more_replicates_than_the_last_look_are_refused(tmp_path):
    with pytest.raises(UserError, match="13 replicates; the last look is the largest"):
        of_the_table(students((4,), shared(13), better), tmp_path, looks=(8, 12))


def test_tuning_runs_enter_no_verdict_and_no_cell(tmp_path):
    table = students((4,), shared(7), better)
    tuning = table[table["stage"] == "student"].assign(purpose="tuning", test_loss=9.0, seed=99)
    both = pd.concat([table.assign(purpose="verdict"), tuning], ignore_index=True)
    plain, mixed = of_the_table(table, tmp_path), of_the_table(both.astype({"seed": "Int64"}), tmp_path)
    assert mixed.differences[0].pairs == plain.differences[0].pairs
    assert [line.numbers.get("test_loss") for line in mixed.lines] == [
        line.numbers.get("test_loss") for line in plain.lines
    ]
    assert mixed.differences[0].planned == 7
