"""What a comparison counts, how many items a plan tests, and the table of what happened to each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator import preregistration
from orchestrator.advice import advise
from orchestrator.fingerprints import FilePlanner
from orchestrator.items import folds_of, item_design, item_table, planned_items, replicate_columns, unit_of
from orchestrator.planning import expand
from orchestrator.results import tidy
from orchestrator.store import Store
from orchestrator.study import Axis, Stage
from tests.orchestrator.recorded import Asked, Told, fill, folds, planned
from tests.orchestrator.synthetic import rank_study


def study_of(folder, **changes):
    return planned(folder, **changes).study


def comparing(study, **changes):
    return replace(study, comparison=replace(study.comparison, **changes))


def test_items_are_counted_with_folds_and_for_accuracy_unless_the_study_says_otherwise(tmp_path):
    plain, in_folds = study_of(tmp_path), study_of(tmp_path, **folds(3))
    assert [unit_of(plain), unit_of(in_folds)] == ["replicate", "item"]
    assert unit_of(comparing(plain, metric="test_accuracy")) == "item"
    assert unit_of(comparing(plain, unit="item")) == "item"
    assert unit_of(comparing(in_folds, unit="replicate")) == "replicate"
    assert unit_of(comparing(in_folds, metric="final_eval_loss")) == "replicate", "known of runs alone"
    assert unit_of(replace(plain, comparison=None)) == "replicate"


def test_evaluations_that_keep_no_items_leave_replicates_to_count():
    assert unit_of(comparing(rank_study().with_axis("dataset.fold", (0, 1)), metric="test_accuracy")) == "replicate"


@pytest.mark.parametrize(("count", "expected"), [(2, 81), (5, 81), (81, 81)])
def test_over_all_folds_every_record_is_planned_to_be_tested(tmp_path, count, expected):
    plan = planned(tmp_path, **{**folds(count), "axes": (*folds(count)["axes"], "student.seed=1")})
    assert folds_of(plan.study) == count
    assert planned_items(plan, {}) == expected


def test_without_folds_the_test_side_is_what_is_tested(tmp_path):
    assert planned_items(planned(tmp_path), {}) == 8
    assert planned_items(planned(tmp_path, settings=("dataset.test=0.25",)), {}) == 20
    assert planned_items(planned(tmp_path, settings=("evaluate.items=5",)), {}) == 5
    splits = planned(tmp_path, settings=("dataset.test=30",), axes=("dataset.split_seed=1,2",))
    assert planned_items(splits, {}) == 30, "two splits of one data set test items of the same 81"


def test_plan_says_what_a_design_by_item_can_reach(tmp_path):
    plan = planned(tmp_path, **folds(5))
    design = item_design(plan)
    assert (design.items, design.folds, design.runs, design.family) == (81, 5, 10, 1)
    assert design.can_conclude
    (said,) = [item for item in advise(plan) if item.topic == "design"]
    assert said.is_ok
    assert "n counts items: 81 in 5 folds, each tested once; 10 runs of each arm, 1 comparison" in said.text


def test_a_locked_design_says_that_n_counts_items(tmp_path):
    locked = preregistration.lock(planned(tmp_path, **folds(5)), Store(tmp_path))
    assert (locked.unit, locked.n, locked.method) == ("item", 81, "none")
    other = preregistration.describe(planned(tmp_path, **folds(3)), Store(tmp_path))
    assert "dataset.fold: locked 0, 1, 2, 3, 4, now 0, 1, 2" in preregistration.differences(locked, other)
    plain = preregistration.describe(planned(tmp_path, axes=("student.seed=1,2,3",)), Store(tmp_path))
    assert (plain.unit, plain.n) == ("replicate", 3)


def test_one_run_of_each_arm_is_a_demonstration_however_many_items_there_are(tmp_path):
    plan = planned(tmp_path, settings=("dataset.test=40",), axes=("student.seed=1",))
    plan = replace(plan, study=comparing(plan.study, unit="item"))
    assert item_design(plan).items == 40
    assert not item_design(plan).can_conclude
    assert item_design(replace(plan, study=comparing(plan.study, unit="replicate"))) is None


def test_the_table_tells_subjects_items_and_folds_apart(tmp_path):
    plan, store = planned(tmp_path, **folds(3)), Store(tmp_path)
    assert len(item_table(plan, store)) == 0
    fill(plan, store, lambda asked: Told(asked.number, None if asked.number % 2 else "no"))
    table = item_table(plan, store)
    assert sorted(replicate_columns(plan.study)) == ["fold", "seed"]
    svd = table[(table["init"] == "svd") & (table["seed"] == 2)].set_index("item")
    assert len(svd) == 81
    assert svd.loc["item007"][["loss", "tokens", "correct", "fold", "rank"]].tolist() == [7.0, 2, 1, 1, 4]
    assert table[table["stage"] == "base_model"]["rank"].isna().all()
    assert str(table["rank"].dtype) == "Int64"


def test_a_base_model_is_the_mean_of_its_folds_and_a_truncated_teacher_of_no_two_ranks(tmp_path):
    axes = (*folds(3)["axes"], "student.rank=2,4", "student.seed=1")
    plan, store = planned(tmp_path, settings=folds(3)["settings"], axes=axes), Store(tmp_path)

    def tell(asked: Asked) -> Told:
        return Told(1.0 + asked.labels["dataset.fold"])

    fill(plan, store, tell)
    table = tidy(plan, store).set_index("stage")
    assert table.loc["base_model", "test_loss"] == pytest.approx(2.0)
    assert table.loc["svd_export", "test_loss"].isna().all()
    assert table.loc["teacher", "test_loss"].tolist() == [1.0, 2.0, 3.0]


def test_a_study_can_give_the_teacher_one_half_and_the_students_the_other(tmp_path):
    study = study_of(tmp_path, **folds(3))
    data = study.stages["dataset"]
    fold = {"fold": Axis("dataset.fold")}
    study = study.with_setting("dataset", "part", "second").with_stage(
        "teacher_data", Stage("dataset", {**data.config, **fold, "part": "first"}, data.inputs)
    )
    teacher = study.stages["teacher"]
    study = study.with_stage("teacher", replace(teacher, inputs={**teacher.inputs, "dataset": "teacher_data"}))
    plan = expand(study, FilePlanner(Store(tmp_path)))
    for run in plan.of_stage("student"):
        own = plan[run.inputs["dataset"]]
        assert own.config.part == "second"
        if "svd_export" in run.inputs:
            taught = plan[plan[plan[run.inputs["svd_export"]].inputs["teacher"]].inputs["dataset"]]
            assert (taught.config.part, taught.config.fold) == ("first", own.config.fold)
    assert len(plan.of_stage("teacher")) == 3
    assert planned_items(plan, {}) == 81
