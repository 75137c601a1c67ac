from __future__ import annotations

import json
from dataclasses import replace

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.search.journal import is_recorded, journal_path, record
from orchestrator.store import Store
from orchestrator.study import Comparison
from tests.orchestrator.synthetic import fill, filled, planned, rank_study


def load(store: Store, name: str = "rank_study fake") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(journal_path(store)))))


def test_every_finished_run_of_the_grid_is_one_trial_however_often_it_is_told(tmp_path):
    _, plan, store = filled(tmp_path / "a store", rank_study(ranks=(4, 16), seeds=2))
    assert [record(plan, store) for _ in range(2)] == [8, 0]
    trials = load(store).trials
    assert {trial.user_attrs["run_id"] for trial in trials} == {run.id for run in plan.of_stage("student")}
    assert len(trials) == 8


def test_a_trial_has_the_runs_axes_its_seed_apart_and_the_primary_outcome(tmp_path):
    _, plan, store = filled(tmp_path, rank_study(ranks=(4, 16), seeds=2))
    record(plan, store)
    student = next(run for run in plan.of_stage("student") if run.labels["student.init"] == "svd")
    (trial,) = [trial for trial in load(store).trials if trial.user_attrs["run_id"] == student.id]
    assert trial.params == {"student.rank": student.labels["student.rank"], "student.init": "svd"}
    assert trial.user_attrs["student.seed"] == student.labels["student.seed"]
    evaluation = next(run for run in plan.of_stage("evaluate") if run.inputs["subject"] == student.id)
    evaluated = store.record(evaluation.id)
    assert evaluated is not None
    assert trial.value == evaluated.metrics["test_loss"]
    assert load(store).best_trial.params["student.init"] == "svd"


def test_failed_and_diverged_runs_are_failures_and_pending_ones_are_not_told(tmp_path):
    fates = {(4, "svd", 1): "oom", (4, "random", 1): "diverged"}
    study, store = rank_study(ranks=(4,), seeds=3, fates=fates), Store(tmp_path)
    plan = planned(study, store)
    late = next(run for run in plan.of_stage("student") if run.labels["student.seed"] == 3)
    fill(plan, store, leave_out={late.name})
    assert record(plan, store) == 5
    states = {trial.user_attrs["status"]: trial.state.name for trial in load(store).trials}
    assert states == {"oom": "FAIL", "diverged": "FAIL", "done": "COMPLETE"}


def test_an_extended_grid_adds_only_what_is_new_and_optuna_can_still_judge_it(tmp_path):
    _, plan, store = filled(tmp_path, rank_study(ranks=(4, 16), seeds=2))
    record(plan, store)
    wider = planned(rank_study(ranks=(4, 16, 64), inits=("random", "svd", "pissa"), seeds=2), store)
    fill(wider, store)
    assert record(wider, store) == 18 - 8
    importances = optuna.importance.get_param_importances(load(store))
    assert set(importances) == {"student.rank", "student.init"}


def test_recorded_is_known_until_a_record_changes_or_the_journal_is_gone(tmp_path):
    _, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    assert not is_recorded(plan, store)
    record(plan, store)
    assert is_recorded(plan, store)
    store.forget(plan.of_stage("student")[0].id)
    assert not is_recorded(plan, store)
    fill(plan, store)
    record(plan, store)
    journal_path(store).unlink()
    assert not is_recorded(plan, store)


def test_the_journal_lives_where_views_do(tmp_path):
    _, plan, store = filled(tmp_path / "store", rank_study(ranks=(4,), seeds=1))
    record(plan, store, views=tmp_path / "views")
    assert (tmp_path / "views" / "optuna.journal").is_file()
    assert is_recorded(plan, store, views=tmp_path / "views")
    assert not is_recorded(plan, store)


@pytest.mark.parametrize("name", ["rank_study fake"])
def test_the_direction_is_the_comparisons(tmp_path, name):
    _, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    record(plan, store)
    assert load(store, name).direction.name == "MINIMIZE"


def test_another_metric_or_another_value_makes_the_journal_anew(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    record(plan, store)
    by_accuracy = replace(study, comparison=Comparison(metric="test_accuracy", higher_is_better=True))
    plan = planned(by_accuracy, store)
    assert not is_recorded(plan, store)
    assert record(plan, store) == 2
    assert is_recorded(plan, store)
    assert load(store).direction.name == "MAXIMIZE"
    evaluations = [run.id for run in plan.of_stage("evaluate")]
    accuracies = [one.metrics["test_accuracy"] for one in store.records(evaluations).values()]
    assert all(trial.value in accuracies for trial in load(store).trials)
    student = load(store).trials[0].user_attrs["run_id"]
    (evaluation,) = [run.id for run in plan.of_stage("evaluate") if run.inputs["subject"] == student]
    path = store.artefact(evaluation) / "record.json"  # as if it had been made again and come to something else
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": {"test_accuracy": 0.125}}))
    record(plan, store)
    assert [trial.value for trial in load(store).trials if trial.user_attrs["run_id"] == student] == [0.125]
    assert len(load(store).trials) == 2


def test_two_folders_of_views_with_one_name_are_told_apart(tmp_path):
    _, plan, store = filled(tmp_path / "store", rank_study(ranks=(4,), seeds=1))
    record(plan, store, views=tmp_path / "a" / "views")
    (tmp_path / "b" / "views").mkdir(parents=True)
    (tmp_path / "b" / "views" / "optuna.journal").touch()
    assert is_recorded(plan, store, views=tmp_path / "a" / "views")
    assert not is_recorded(plan, store, views=tmp_path / "b" / "views")
