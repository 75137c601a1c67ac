from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from orchestrator.results import (
    VOLATILE_COLUMNS,
    Target,
    _steps_to_target,
    axis_columns,
    first_step_at,
    tidy,
    write_csv,
)
from orchestrator.store import Store
from orchestrator.study import By
from tests.orchestrator.synthetic import fill, filled, planned, rank_study
from trainables.student import StudentConfig


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    _, plan, store = filled(tmp_path_factory.mktemp("store"), rank_study(seeds=3))
    return plan, store, tidy(plan, store)


def student(table: pd.DataFrame, rank: int, init: str, seed: int) -> pd.Series:
    rows = table[(table["stage"] == "student") & (table["rank"] == rank) & (table["init"] == init)]
    return rows[rows["seed"] == seed].iloc[0]


def test_every_run_of_the_plan_is_one_row(whole):
    plan, _, table = whole
    assert sorted(table["run_id"]) == sorted(run.id for run in plan.runs)
    assert set(table["status"]) == {"done"}


def test_axes_are_columns_without_their_stage_and_empty_where_they_do_not_apply(whole):
    _, _, table = whole
    teacher = table[table["stage"] == "teacher"].iloc[0]
    assert pd.isna(teacher["rank"])
    assert pd.isna(teacher["init"])
    assert student(table, 16, "svd", 2)["learning_rate"] == 3e-5
    assert table["rank"].dtype == "Int64"


def test_axes_that_vary_settings_of_one_name_keep_their_stage():
    study = rank_study().with_axis("teacher.seed", (1, 2))
    columns = axis_columns(study)
    assert columns["teacher.seed"] == "teacher.seed"
    assert columns["student.seed"] == "student.seed"
    assert columns["student.rank"] == "rank"


def test_a_student_carries_the_metrics_of_its_evaluation(whole):
    plan, store, table = whole
    row = student(table, 4, "random", 3)
    evaluation = next(run for run in plan.of_stage("evaluate") if run.inputs["subject"] == row["run_id"])
    record = store.record(evaluation.id)
    assert record is not None
    assert row["test_loss"] == record.metrics["test_loss"]


def test_a_truncated_teacher_is_a_row_for_each_rank_and_its_export_carries_none_of_them(whole):
    _, _, table = whole
    truncated = table[(table["stage"] == "evaluate") & (table["subject"] == "svd_export")]
    assert list(truncated["rank"]) == [4, 16, 64]
    assert truncated["test_loss"].notna().all()
    assert table[table["stage"] == "svd_export"]["test_loss"].isna().all()


def test_steps_to_target_count_from_zero_and_are_censored_at_the_last_step(whole):
    _, _, table = whole
    target = 0.939 + 0.05
    for _, row in table[table["stage"] == "student"].iterrows():
        assert row["target_loss"] == pytest.approx(target)
        if row["init"] == "svd":
            assert row["steps_to_target"] == 0  # .94 + .12 / rank is below the target
        else:
            assert pd.isna(row["steps_to_target"])
            assert row["steps_censored_at"] == 20


def test_the_first_evaluated_step_at_the_target_counts_and_a_tie_is_a_hit():
    history = {"step": [0, 5, 10, 15], "eval_loss": [3.0, None, 1.0, 0.9]}
    assert first_step_at(history, 1.0) == 10
    assert first_step_at(history, 0.95) == 15
    assert first_step_at(history, 0.5) is None
    assert first_step_at({"step": [0, 1], "loss": [1.0, 1.0]}, 9.0) is None


def test_two_sweeps_differ_in_volatile_columns_only(tmp_path):
    tables = []
    for name in ("first", "second"):
        study, store = rank_study(ranks=(4,), seeds=2), Store(tmp_path / name)
        plan = planned(study, store)
        if name == "second":
            fill(plan, store, leave_out={"teacher"})  # another order of events
        fill(plan, store)
        write_csv(tidy(plan, store), tmp_path / f"{name}.csv")
        tables.append(pd.read_csv(tmp_path / f"{name}.csv"))
    assert tuple(tables[0].columns[-len(VOLATILE_COLUMNS) :]) == VOLATILE_COLUMNS
    kept = [table.drop(columns=list(VOLATILE_COLUMNS)) for table in tables]
    pd.testing.assert_frame_equal(kept[0], kept[1])


def test_what_ended_badly_is_a_row_with_its_status(tmp_path):
    fates = {(4, "svd", 1): "oom", (4, "random", 2): "diverged"}
    study, store = rank_study(ranks=(4,), seeds=3, fates=fates), Store(tmp_path)
    plan = planned(study, store)
    late = next(run for run in plan.of_stage("student") if run.labels["student.seed"] == 3)
    fill(plan, store, leave_out={late.name})
    table = tidy(plan, store)
    assert student(table, 4, "svd", 1)["status"] == "oom"
    assert student(table, 4, "random", 2)["status"] == "diverged"
    assert table.set_index("run_id").loc[late.id, "status"] == "pending"
    statuses = table[table["stage"] == "evaluate"]["status"].value_counts().to_dict()
    assert statuses == {"done": 6, "skipped": 2, "pending": 1}


def test_a_diverged_run_never_reached_its_target(tmp_path):
    _, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1, fates={(4, "random", 1): "diverged"}))
    row = student(tidy(plan, store), 4, "random", 1)
    assert pd.isna(row["steps_to_target"])
    assert row["steps_censored_at"] == 20


def test_a_given_teacher_sets_the_target_by_its_test_loss(tmp_path):
    study = rank_study(ranks=(4,), seeds=1)
    given = replace(study.stages["base_model"], config={"source": "given"}, inputs={})
    _, plan, store = filled(tmp_path, study.with_stage("teacher", given))
    table = tidy(plan, store)
    tested = table[table["stage"] == "teacher"]["test_loss"].iloc[0]
    assert student(table, 4, "svd", 1)["target_loss"] == pytest.approx(tested + 0.05)


def test_each_student_is_measured_against_the_teacher_of_its_own_split(tmp_path):
    ends_at = By("dataset.fold", {0: 0.9, 1: 0.8})
    study = (
        rank_study(ranks=(4,), seeds=1).with_axis("dataset.fold", (0, 1)).with_setting("teacher", "ends_at", ends_at)
    )
    _, plan, store = filled(tmp_path, study)
    table = tidy(plan, store)
    students = table[table["stage"] == "student"]
    assert len(students) == 4
    for _, row in students.iterrows():
        assert row["target_loss"] == pytest.approx({0: 0.95, 1: 0.85}[row["fold"]])


def test_with_epochs_a_run_is_censored_at_the_steps_it_trained_not_at_the_unused_setting(whole):
    """StudentConfig(epochs=3) leaves `steps` at its default of 30, whatever three epochs come to."""
    plan, store, _ = whole
    run = plan.of_stage("student")[0]
    record = store.record(run.id)
    settings = StudentConfig(epochs=3).model_dump(mode="json")
    assert settings["steps"] == 30
    history = {"step": [0, 150, 300], "eval_loss": [3.0, 2.5, 2.0]}
    trained = record.model_copy(update={"settings": settings, "history": history, "metrics": {"steps": 300}})
    for found in (trained, trained.model_copy(update={"status": "diverged", "metrics": {}})):
        assert _steps_to_target(run, found, Target(1.0, ""))["steps_censored_at"] == 300
