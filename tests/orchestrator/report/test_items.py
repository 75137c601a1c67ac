"""Comparisons by item: what n counts, what the sentence says, and that items pair and runs' luck is not forgotten."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from orchestrator.report.comparison import summarise
from orchestrator.report.summary import Difference, Line, Summary
from orchestrator.results import tidy
from orchestrator.statistics import holm
from orchestrator.store import Store
from tests.orchestrator.recorded import Asked, Told, fill, folds, planned

ACCURACY = {"metric": "test_accuracy", "higher_is_better": True}


def noise(*key: object) -> float:
    return random.Random(repr(key)).gauss(0, 1)


def better(asked: Asked) -> Told:
    """svd is lower by 0.2 on every item, but for noise; items differ by far more than arms."""
    loss = 3 + noise("item", asked.number) - 0.2 * (asked.arm == "svd")
    return Told(loss + 0.1 * noise(asked.arm, asked.seed, asked.number), tokens=1 + asked.number % 3)


def reported(folder, tell, *, comparison=None, leave_out=(), **changes) -> Summary:
    folder.mkdir(exist_ok=True)
    plan, store = planned(folder, **changes), Store(folder)
    compared = replace(plan.study.comparison, **comparison or {})
    plan = replace(plan, study=replace(plan.study, comparison=compared))
    fill(plan, store, tell, leave_out=leave_out)
    return summarise(plan, tidy(plan, store), store.records(run.id for run in plan.runs), store)


def only(summary: Summary) -> Difference:
    (difference,) = summary.differences
    return difference


def arm(summary: Summary, label: str) -> Line:
    return next(line for line in summary.lines if line.label == label)


def test_with_folds_n_is_the_number_of_records_and_the_sentence_says_so(tmp_path):
    summary = reported(tmp_path, better, **folds(5))
    found = only(summary)
    assert found.unit == "item"
    assert found.estimate.n == found.planned == len(found.pairs) == 81
    assert found.verdict == "supported"
    assert "for the teachers of these 5 folds, over 81 items" in found.sentence
    assert "81 items in 5 folds, each tested once; 2 seeds" in found.sentence
    assert "this teacher" not in found.sentence
    assert summary.design_note == ""


def test_the_mean_over_items_is_the_difference_in_nats_per_token(tmp_path):
    found = only(reported(tmp_path, better, **folds(3)))

    def pooled(init: str, seed: int) -> float:
        told = [better(Asked("student", {"student.init": init, "student.seed": seed}, n)) for n in range(81)]
        return sum(item.loss * item.tokens for item in told) / sum(item.tokens for item in told)

    expected = np.mean([pooled("svd", seed) - pooled("random", seed) for seed in (1, 2)])
    assert found.estimate.mean == pytest.approx(expected)


def test_a_runs_luck_that_all_its_items_share_makes_nothing_significant(tmp_path):
    """A seed moves all items of a run by as much as the arms seem to differ: a test over items alone is fooled."""

    def lucky(asked: Asked) -> Told:
        luck = {("svd", 1): -0.6, ("svd", 2): 0.1}.get((asked.arm, asked.seed), 0.0)
        return Told(3 + luck + 0.3 * noise(asked.arm, asked.seed, asked.number))

    found = only(reported(tmp_path, lucky, comparison={"unit": "item"}))
    assert stats.ttest_1samp(found.pairs, 0).pvalue < 1e-4
    assert found.p > 0.05
    assert found.verdict == "inconclusive"


def test_accuracy_always_pairs_by_item_and_is_exact(tmp_path):
    """Of 81 questions svd has 12 right that random has not, and random 2 that svd has not, with both seeds."""

    def tell(asked: Asked) -> Told:
        wrong = {"random": range(12), "svd": range(12, 14)}.get(asked.arm, range(0))
        return Told(2.0, "no" if asked.number in wrong else None)

    found = only(reported(tmp_path, tell, comparison=ACCURACY))
    assert found.unit == "item"
    assert found.is_exact
    assert found.estimate.mean == pytest.approx(10 / 81)
    assert found.p >= stats.binomtest(12, 14).pvalue, "McNemar's exact test"
    assert "for this teacher, over 81 items" in found.sentence
    assert "(81 items; 2 seeds;" in found.sentence
    assert f"p {stats.binomtest(12, 14).pvalue:.3f} over items" in found.sentence


def test_an_arms_accuracy_has_an_interval_over_items_and_seeds_within_0_and_1(tmp_path):
    def tell(asked: Asked) -> Told:
        return Told(2.0, "no" if (asked.number * 7 + asked.seed) % 4 == 0 else None)

    summary = reported(tmp_path, tell)
    for label in ("base model", "teacher", "svd, untrained", "random", "svd"):
        number = arm(summary, label).numbers["accuracy"]
        assert number.n == 81
        assert 0 <= number.low < number.mean < number.high <= 1
    share = arm(summary, "base model").numbers["accuracy"]
    binomial = 1.99 * math.sqrt(share.mean * (1 - share.mean) / 80)
    assert share.high - share.mean == pytest.approx(binomial, rel=0.01), "one run: the t interval over items"


def test_one_question_wrong_in_every_run_stays_a_wrong_answer(tmp_path):
    summary = reported(tmp_path, lambda asked: Told(1.0, "no"))
    number = arm(summary, "svd").numbers["accuracy"]
    assert (number.mean, number.low, number.high) == (0, 0, 0)


def test_without_folds_a_loss_counts_replicates_unless_the_study_says_items(tmp_path):
    assert only(reported(tmp_path / "a", better)).unit == "replicate"
    assert only(reported(tmp_path / "b", better, comparison={"unit": "item"})).unit == "item"
    assert only(reported(tmp_path / "c", better, comparison={"unit": "replicate"}, **folds(3))).unit == "replicate"


def test_nothing_is_tested_while_runs_are_still_to_come(tmp_path):
    found = only(reported(tmp_path, better, leave_out=["svd r4 s2 f1", "svd r4 s1 f2"], **folds(3)))
    assert found.verdict == "interim"
    assert (found.p, found.p_adjusted) == (None, None)
    assert "2 runs are still to come" in found.sentence


def test_nothing_evaluated_yet_is_interim_and_no_error(tmp_path):
    found = only(reported(tmp_path, better, leave_out=["svd r4 s1", "svd r4 s2"], comparison=ACCURACY))
    assert (found.verdict, found.estimate) == ("interim", None)
    assert "no item has been answered by both svd and random" in found.sentence


def test_one_seed_says_that_its_luck_is_not_in_the_interval(tmp_path):
    found = only(reported(tmp_path, better, comparison={"unit": "item"}, axes=("student.seed=1",)))
    assert "One run of each arm: the luck of a seed is not in this interval" in found.sentence
    plain = stats.ttest_1samp(found.pairs, 0).confidence_interval()
    assert (found.estimate.low, found.estimate.high) == pytest.approx((plain.low, plain.high))


def test_every_rank_is_judged_and_p_is_adjusted_by_holm(tmp_path):
    def tell(asked: Asked) -> Told:
        sign = -1 if asked.labels.get("student.rank") == 2 else 1
        return Told(3 + 0.1 * sign * (asked.arm == "svd") + 0.1 * noise(asked.arm, asked.seed, asked.number))

    summary = reported(tmp_path, tell, comparison={"unit": "item"}, axes=("student.rank=2,4", "student.seed=1,2,3,4"))
    by_rank = {item.group["rank"]: item for item in summary.differences}
    assert [by_rank[rank].verdict for rank in (2, 4)] == ["supported", "contradicted"]
    assert [item.p_adjusted for item in summary.differences] == holm([item.p for item in summary.differences])
    assert "by Holm" in summary.differences[0].sentence


def test_the_section_says_what_was_done_and_shows_both_p(tmp_path):
    summary = reported(tmp_path, better, **folds(3))
    (section,) = [section for section in summary.sections if section.name == "items"]
    assert "81 in 3 folds, each tested once" in section.paragraphs[0]
    assert "Each fold has a teacher and students of its own" in section.paragraphs[1]
    (grid,) = section.grids
    assert grid.rows[0][:4] == ["4", "svd − random", "81", "6"]
    assert len(grid.rows[0]) == len(grid.header)
