"""81 question-answer records in folds, trained for real on the tiny model: every record tested once, by name and n."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import pandas as pd
import pytest

from orchestrator.items import item_table
from orchestrator.plan import Plan
from orchestrator.report import answers
from orchestrator.report.comparison import summarise
from orchestrator.results import tidy
from orchestrator.store import Store
from tests.orchestrator.recorded import folds, planned
from tests.orchestrator.synthetic import execute

SHORT = ("teacher.steps=3", "student.steps=3", "evaluate.max_new_tokens=2")


@dataclass(frozen=True)
class Swept:
    """A plan whose runs have all been executed."""

    plan: Plan
    store: Store
    table: pd.DataFrame


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Swept:
    """`smoke` at rank 2 and one seed in three folds, executed in this process."""
    folder, three = tmp_path_factory.mktemp("folds"), folds(3)
    axes = (*three["axes"], "student.rank=2", "student.seed=1")
    plan, store = planned(folder, settings=(*three["settings"], *SHORT), axes=axes), Store(folder)
    outcomes = [execute(run, store) for run in plan.runs]
    assert {outcome.status for outcome in outcomes} == {"done"}
    return Swept(plan, store, tidy(plan, store))


def test_every_record_is_tested_once_and_never_by_a_student_that_has_seen_it(swept):
    tested = Counter()
    for run in swept.plan.of_stage("evaluate"):
        if run.labels["evaluate.subject"] != "student":
            continue
        data = swept.store.artefact(run.inputs["dataset"])
        assert swept.plan[run.inputs["subject"]].inputs["dataset"] == run.inputs["dataset"]
        seen = {json.loads(line)["id"] for line in (data / "train.jsonl").read_text().splitlines()}
        items = pd.read_csv(swept.store.artefact(run.id) / "items.csv", dtype={"item": "str"})["item"]
        assert not seen & set(items)
        tested.update((run.labels["student.init"], item) for item in items)
    assert len(tested) == 2 * 81
    assert set(tested.values()) == {1}


def test_the_verdict_counts_81_items_and_says_so(swept):
    records = swept.store.records(run.id for run in swept.plan.runs)
    summary = summarise(swept.plan, swept.table, records, swept.store)
    (found,) = summary.differences
    assert found.unit == "item"
    assert found.estimate.n == found.planned == len(found.pairs) == 81
    assert "for the teachers of these 3 folds, over 81 items" in found.sentence
    assert "81 items in 3 folds, each tested once; 1 seed" in found.sentence
    assert "this teacher" not in found.sentence
    gap = swept.table[swept.table["stage"] == "student"].set_index(["fold", "init"])["test_loss"].unstack()
    assert found.estimate.mean == pytest.approx((gap["svd"] - gap["random"]).mean(), rel=0.05), "folds are nearly equal"


def test_the_base_model_tested_in_every_fold_has_the_mean_of_them(swept):
    base = swept.table[swept.table["stage"] == "base_model"]["test_loss"].item()
    tested = swept.table[(swept.table["stage"] == "evaluate") & (swept.table["subject"] == "base_model")]["test_loss"]
    assert len(tested) == 3
    assert base == pytest.approx(tested.mean())


def test_the_item_table_has_every_subject_and_its_axes(swept):
    items = item_table(swept.plan, swept.store)
    assert list(items)[-4:] == ["item", "loss", "tokens", "correct"]
    counts = items.groupby("stage")["item"].agg(["size", "nunique"])
    assert counts.loc["student"].tolist() == [2 * 81, 81]
    for stage in ("base_model", "teacher", "svd_export"):
        assert counts.loc[stage].tolist() == [81, 81]
    assert set(items[items["stage"] == "student"]["fold"]) == {0, 1, 2}


def test_the_answers_of_all_81_stand_side_by_side(swept):
    (sides,) = answers.read(swept.plan, swept.store)
    assert [subject.label for subject in sides.subjects] == ["base model", "teacher", "svd, untrained", "random", "svd"]
    assert len(sides.questions) == 81
    for subject in sides.subjects:
        assert set(subject.told) == {question.key for question in sides.questions}
    assert sorted(int(question.reference) for question in sides.questions) == [2 * i for i in range(81)]
