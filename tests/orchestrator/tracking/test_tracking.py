from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from cluster.attempt import Execution
from cluster.base import Job, Outcome
from cluster.ending import keep_killed
from cluster.notes import append_rows
from orchestrator import report
from orchestrator.store import Store
from orchestrator.tracking import Tracker, clean_params, is_synced, prepare_database, sender, tracking_uri
from orchestrator.tracking.client import shown
from orchestrator.tracking.trouble import trouble
from tests.orchestrator.synthetic import execute, fill, filled, planned, rank_study
from tests.orchestrator.tracking.looking import all_expected, expected, logged, runs_at, wait_until
from trainables.base import Progress


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def runs_in(store: Store, views: Path | None = None):
    """Return the parent and the children by run id, read through MLflow itself."""
    return runs_at(tracking_uri(store, views))


def measured_in(store: Store) -> int:
    """Return how many metric points the store's own database has."""
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(store.root / "mlflow.db")) as db,
    ):
        return int(db.execute("SELECT count(*) FROM metrics").fetchone()[0])
    return 0


def track(study, store, *events, views: Path | None = None) -> None:
    tracker = Tracker(study, store, views=views)
    for event in events:
        event(tracker)
    assert tracker.close() is None


def test_a_store_is_rebuilt_with_one_child_per_run_and_every_metric_once(tmp_path):
    fates = {(4, "svd", 2): "oom", (4, "random", 1): "diverged"}
    study, plan, store = filled(tmp_path / "a store", rank_study(ranks=(4,), seeds=2, fates=fates))
    folder = report.report_folder(plan, store)
    report.write(plan, store, folder)
    for _ in range(2):
        track(study, store, lambda tracker: tracker.sync(plan, report=folder))
    client, parent, children = runs_in(store)
    records = store.records(run.id for run in plan.runs)
    assert set(children) == set(records)
    once = all_expected(plan, store)
    for run_id, record in records.items():
        assert logged(client, children[run_id]) == once[run_id]
        assert children[run_id].data.tags["status"] == record.status
    statuses = {record.name: children[run_id].info.status for run_id, record in records.items()}
    assert Counter(statuses.values()) == {"FINISHED": len(records) - 1, "FAILED": 1}
    assert parent.info.status == "FAILED"
    paths = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"results.csv", "comparison.md", "report.md", "figures"} <= paths
    assert "runs" not in paths
    figures = {item.path for item in client.list_artifacts(parent.info.run_id, "figures")}
    assert "figures/loss_curves.png" in figures


def test_metrics_have_the_records_values_on_the_training_step(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    track(study, store, lambda tracker: tracker.sync(plan))
    client, _, children = runs_in(store)
    student = plan.of_stage("student")[0]
    record = store.record(student.id)
    assert record is not None
    history = client.get_metric_history(children[student.id].info.run_id, "eval_loss")
    assert {m.step: m.value for m in history} == {
        row["step"]: row["eval_loss"] for row in record.history_rows() if "eval_loss" in row
    }
    assert children[student.id].data.metrics["final_eval_loss"] == record.metrics["final_eval_loss"]


def test_names_params_and_tags_are_clean(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    track(study, store, lambda tracker: tracker.sync(plan))
    _, parent, children = runs_in(store)
    student = next(run for run in plan.of_stage("student") if run.labels["student.init"] == "svd")
    child = children[student.id]
    assert child.info.run_name == student.name
    assert child.data.params["rank"] == "4"
    assert child.data.params["learning_rate"] == "3e-05"
    assert "lora_alpha" not in child.data.params  # None: follows the rank
    expected_tags = {"study": "rank_study", "stage": "student", "arm": "svd", "run_id": student.id, "status": "done"}
    assert expected_tags.items() <= child.data.tags.items()
    assert parent.info.run_name == "rank_study fake"
    truncated = next(run for run in plan.of_stage("evaluate") if run.labels["evaluate.subject"] == "svd_export")
    assert clean_params(study, truncated)["subject"] == "svd_export"


def test_live_metrics_and_the_record_that_completes_them_do_not_double(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=1), Store(tmp_path)
    plan = planned(study, store)
    fill(plan, store, leave_out={run.name for run in plan.of_stage("student")})
    student = plan.of_stage("student")[0]
    tracker = Tracker(study, store)
    tracker.started(student, 1)
    execution = Execution(Job(student, store.root))
    for progress in execution:
        tracker.progressed(student, progress)
    assert execution.outcome is not None
    tracker.finished(execution.outcome)
    tracker.sync(plan)
    assert tracker.close() is None
    client, _, children = runs_in(store)
    record = store.record(student.id)
    assert record is not None
    assert logged(client, children[student.id]) == Counter(dict.fromkeys(expected(record), 1))


def test_a_driver_that_died_leaves_no_child_running_and_its_successor_goes_on_in_the_same_one(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=1), Store(tmp_path)
    plan = planned(study, store)
    code = f"""
import time
from pathlib import Path
from orchestrator.store import Store
from orchestrator.tracking import Tracker
from tests.orchestrator.synthetic import planned, rank_study
from trainables.base import Progress
study, store = rank_study(ranks=(4,), seeds=1), Store(Path({str(tmp_path)!r}))
student, teacher = planned(study, store).of_stage("student")[0], planned(study, store).of_stage("teacher")[0]
tracker = Tracker(study, store)
for run in (teacher, student):
    tracker.started(run, 1)
    for step in range(8):
        tracker.progressed(run, Progress(step, 20, {{"loss": 100.0 - step}}))
time.sleep(600)
"""
    student, teacher = plan.of_stage("student")[0], plan.of_stage("teacher")[0]
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=Path.cwd())
    try:
        wait_until(lambda: measured_in(store) == 16)
    finally:
        driver.kill()
        driver.wait()
    _, _, children = runs_in(store)
    assert children[student.id].info.status == "RUNNING"

    fill(plan, store, leave_out={student.name})
    tracker = Tracker(study, store)
    tracker.started(student, 2)
    for step in range(5, 12):  # resumed from the checkpoint at step 4
        tracker.progressed(student, Progress(step, 20, {"loss": 50.0}))
    tracker.finished(execute(student, store))
    tracker.sync(plan)
    assert tracker.close() is None
    client, parent, children = runs_in(store)
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert parent.info.status == "FINISHED"
    assert set(logged(client, children[student.id]).values()) == {1}
    assert set(logged(client, children[teacher.id]).values()) == {1}
    kept = {m.step: m.value for m in client.get_metric_history(children[student.id].info.run_id, "loss")}
    assert kept[7] == 93.0
    assert kept[8] == 50.0


def test_a_stopped_run_is_killed_and_a_skipped_one_never_appears(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=1), Store(tmp_path)
    plan = planned(study, store)
    teacher, student = plan.of_stage("teacher")[0], plan.of_stage("student")[0]
    track(
        study,
        store,
        lambda tracker: tracker.started(teacher),
        lambda tracker: tracker.progressed(teacher, Progress(1, 60, {"loss": 2.0})),
        lambda tracker: tracker.finished(Outcome(teacher, "stopped")),
        lambda tracker: tracker.finished(Outcome(student, "skipped")),
    )
    _, parent, children = runs_in(store)
    assert {run_id: run.info.status for run_id, run in children.items()} == {teacher.id: "KILLED"}
    assert children[teacher.id].data.tags["status"] == "stopped"
    assert children[teacher.id].data.metrics == {"loss": 2.0}
    assert parent.info.status == "KILLED"


def test_a_run_made_again_on_purpose_replaces_its_child(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    track(study, store, lambda tracker: tracker.sync(plan))
    student = plan.of_stage("student")[0]
    first = runs_in(store)[2][student.id].info.run_id
    store.forget(student.id)
    execute(student, store)
    track(study, store, lambda tracker: tracker.sync(plan))
    client, _, children = runs_in(store)
    assert children[student.id].info.run_id != first
    assert set(logged(client, children[student.id]).values()) == {1}


@pytest.mark.parametrize("is_live", [True, False])
def test_a_run_that_failed_and_was_tried_again_has_the_numbers_of_its_last_attempt(tmp_path, is_live):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1, inits=("random",)))
    student = plan.of_stage("student")[0]
    done = store.record(student.id)
    assert done is not None
    took = {"seconds": done.provenance.seconds + 60, "attempt": 0}
    failed = done.model_copy(
        update={"status": "oom", "metrics": {}, "provenance": done.provenance.model_copy(update=took)}
    )
    track(
        study,
        store,
        lambda tracker: tracker.started(student, 0),
        lambda tracker: tracker.finished(Outcome(student, "oom", failed)),
    )
    assert runs_in(store)[2][student.id].info.status == "FAILED"
    live = (
        lambda tracker: tracker.started(student, done.provenance.attempt),
        lambda tracker: tracker.finished(Outcome(student, "done", done)),
    )
    track(study, store, *(live if is_live else ()), lambda tracker: tracker.sync(plan))
    client, _, children = runs_in(store)
    assert logged(client, children[student.id]) == all_expected(plan, store)[student.id]
    assert children[student.id].data.metrics["system/run_seconds"] == done.provenance.seconds


def test_a_child_made_again_has_the_curve_that_its_attempt_resumes(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=1, inits=("random",)), Store(tmp_path)
    plan = planned(study, store)
    fill(plan, store, leave_out={run.name for run in plan.of_stage("student")})
    student = plan.of_stage("student")[0]
    killed = keep_killed(Job(student, store.root), "its machine is gone")
    append_rows(store.begin(student.id).folder, [{"step": 4, "loss": 2.5}])
    track(
        study,
        store,
        lambda tracker: tracker.started(student, 1),
        lambda tracker: tracker.finished(killed),
        lambda tracker: tracker.started(student, 2),
    )
    client, _, children = runs_in(store)
    assert logged(client, children[student.id]) == {("loss", 4): 1}


def test_what_mlflow_shows_of_a_test_is_the_evaluation_asked_for_last(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=1, inits=("random",)), Store(tmp_path)
    evaluate = study.stages["evaluate"]
    shorter = replace(study, stages={**study.stages, "evaluate": evaluate.but({"items": 50})})
    for asked in (study, shorter, study):
        plan = planned(asked, store)
        fill(plan, store)
        track(asked, store, lambda tracker, plan=plan: tracker.sync(plan))
        student = plan.of_stage("student")[0]
        (evaluation,) = [run for run in plan.of_stage("evaluate") if run.inputs["subject"] == student.id]
        record = store.record(evaluation.id)
        assert record is not None
        assert runs_in(store)[2][student.id].data.metrics["test_loss"] == record.metrics["test_loss"]


def test_synced_is_known_without_mlflow_and_ends_with_a_new_record_or_a_lost_database(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    folder = report.report_folder(plan, store)
    report.write(plan, store, folder)
    assert not is_synced(plan, store, report=folder)
    track(study, store, lambda tracker: tracker.sync(plan, report=folder))
    assert is_synced(plan, store, report=folder)
    store.forget(plan.of_stage("student")[0].id)
    assert not is_synced(plan, store, report=folder)
    fill(plan, store)
    track(study, store, lambda tracker: tracker.sync(plan, report=folder))
    assert is_synced(plan, store, report=folder)
    (store.root / "mlflow.db").unlink()
    assert not is_synced(plan, store, report=folder)
    track(study, store, lambda tracker: tracker.sync(plan, report=folder))
    assert len(runs_in(store)[2]) == len(plan.runs)


def test_views_live_where_they_are_told_to(tmp_path):
    study, plan, store = filled(tmp_path / "store", rank_study(ranks=(4,), seeds=1))
    views = tmp_path / "fast disk"
    track(study, store, lambda tracker: tracker.sync(plan), views=views)
    assert (views / "mlflow.db").is_file()
    assert not (store.root / "mlflow.db").exists()
    assert is_synced(plan, store, views=views)
    assert not is_synced(plan, store)
    assert len(runs_in(store, views)[2]) == len(plan.runs)


def test_the_sweep_never_waits_and_a_tracker_that_cannot_write_says_so(tmp_path, monkeypatch):
    study, plan, store = filled(tmp_path / "store", rank_study(ranks=(4,), seeds=1))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")
    tracker = Tracker(study, store)
    begun = time.monotonic()
    tracker.sync(plan)
    assert time.monotonic() - begun < 0.5
    problem = tracker.close()
    assert problem is not None
    assert problem.startswith("MLflow: ")
    assert "\n" not in problem
    assert not is_synced(plan, store)


def test_a_tracker_without_events_imports_and_creates_nothing(tmp_path):
    store = Store(tmp_path / "store")
    assert Tracker(rank_study(), store).close() is None
    assert not store.root.exists()


def test_mlflow_says_nothing_on_the_terminal(tmp_path):
    _, _, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    code = f"""
from pathlib import Path
from orchestrator.store import Store
from orchestrator.tracking import Tracker
from tests.orchestrator.synthetic import planned, rank_study
study, store = rank_study(ranks=(4,), seeds=1), Store(Path({str(store.root)!r}))
tracker = Tracker(study, store)
tracker.sync(planned(study, store))
assert tracker.close() is None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def told(store: Store) -> dict[str, object]:
    """Return all that MLflow has of a study but for its own ids and the folder that it is in."""
    client, parent, children = runs_in(store)

    def about(run):
        own = ("mlflow.parentRunId", "model_id")
        tags = {name: value for name, value in run.data.tags.items() if name not in own}
        history = {
            name: sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }
        return run.info.run_name, run.info.status, run.info.end_time, run.data.params, tags, history

    artifacts = sorted(item.path for item in client.list_artifacts(parent.info.run_id))
    return {"parent": about(parent)[1], "artifacts": artifacts} | {id_: about(run) for id_, run in children.items()}


def test_a_copy_of_the_records_alone_rebuilds_the_same_experiment(tmp_path):
    study, plan, store = filled(tmp_path / "here", rank_study(ranks=(4,), seeds=1, fates={(4, "svd", 1): "oom"}))
    folder = report.report_folder(plan, store)
    report.write(plan, store, folder)
    track(study, store, lambda tracker: tracker.sync(plan, report=folder))
    for part in ("artefacts", "failures", "reports"):
        shutil.copytree(store.root / part, tmp_path / "there" / part, symlinks=True)
    copy = Store(tmp_path / "there")
    track(study, copy, lambda tracker: tracker.sync(planned(study, copy), report=report.report_folder(plan, copy)))
    assert told(copy) == told(store)


def test_a_database_that_moved_with_its_store_finds_its_artefacts_and_goes_on(tmp_path):
    study, plan, store = filled(tmp_path / "here", rank_study(ranks=(4,), seeds=1))
    folder = report.report_folder(plan, store)
    report.write(plan, store, folder)
    track(study, store, lambda tracker: tracker.sync(plan, report=folder))
    before = told(store)
    store.root.rename(tmp_path / "there")
    moved = Store(tmp_path / "there")
    prepare_database(moved.root / "mlflow.db")
    assert told(moved) == before
    track(study, moved, lambda tracker: tracker.sync(plan, report=report.report_folder(plan, moved)))
    assert told(moved) == before
    assert not store.root.exists()


def test_a_child_that_somebody_deletes_while_it_runs_is_made_again(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=1), Store(tmp_path)
    plan = planned(study, store)
    fill(plan, store, leave_out={run.name for run in plan.of_stage("student")})
    student = plan.of_stage("student")[0]
    tracker = Tracker(study, store)
    tracker.started(student, 1)
    tracker.progressed(student, Progress(1, 20, {"loss": 3.0}))
    wait_until(lambda: measured_in(store) == 1)
    client, _, children = runs_in(store)
    client.delete_run(children[student.id].info.run_id)
    tracker.progressed(student, Progress(2, 20, {"loss": 2.0}))
    outcome = execute(student, store)
    tracker.finished(outcome)
    assert tracker.close() is None
    _, _, again = runs_in(store)
    assert again[student.id].info.run_id != children[student.id].info.run_id
    assert again[student.id].info.status == "FINISHED"
    assert set(logged(client, again[student.id])) >= expected(outcome.record)


def test_what_was_created_twice_is_there_once_after_the_next_command(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    track(study, store, lambda tracker: tracker.sync(plan))
    client, parent, children = runs_in(store)
    of = [parent.info.experiment_id]
    first = children[plan.runs[0].id]
    tags = {name: value for name, value in first.data.tags.items() if name != "record"}
    late = client.create_run(of[0], tags=tags, run_name=first.info.run_name)
    client.create_run(of[0], tags={name: parent.data.tags[name] for name in ("study", "scale", "role")})
    assert len(client.search_runs(of)) == len(children) + 3
    track(study, store, lambda tracker: tracker.sync(plan))
    _, kept, now = runs_in(store)
    assert kept.info.run_id == parent.info.run_id
    assert now[plan.runs[0].id].info.run_id == first.info.run_id != late.info.run_id
    assert {run.info.status for run in now.values()} == {"FINISHED"}


def test_events_beyond_what_the_queue_holds_are_completed_from_the_records(tmp_path, monkeypatch):
    monkeypatch.setattr(sender, "QUEUE", 3)
    study, store = rank_study(ranks=(4,), seeds=1), Store(tmp_path)
    plan = planned(study, store)
    tracker = Tracker(study, store)
    for run in plan.runs:
        tracker.started(run, 1)
        tracker.finished(execute(run, store))
    tracker.sync(plan)
    assert tracker.close() is None
    client, _, children = runs_in(store)
    for run_id, once in all_expected(plan, store).items():
        assert logged(client, children[run_id]) == once


def test_a_driver_killed_after_all_was_told_is_noticed_though_no_record_is_new(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1, fates={(4, "svd", 1): "failed"}))
    track(study, store, lambda tracker: tracker.sync(plan))
    assert is_synced(plan, store)
    (failed,) = [run for run in plan.of_stage("student") if store.failures.joinpath(run.id).exists()]
    tracker = Tracker(study, store)
    tracker.started(failed, 2)  # and this driver is never heard of again
    wait_until(lambda: not is_synced(plan, store))
    wait_until(lambda: runs_in(store)[2][failed.id].info.status == "RUNNING")
    track(study, store, lambda tracker: tracker.sync(plan))
    assert runs_in(store)[2][failed.id].info.status == "FAILED"


def test_an_experiment_that_another_store_makes_at_the_same_time_is_looked_for_again(tmp_path):
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_experiment("rank_study")
    with pytest.raises(MlflowException) as refused:
        client.create_experiment("rank_study")
    assert trouble(refused.value, "http://server:5000") == "changed"


@pytest.mark.parametrize(
    ("address", "shown_as"),
    [
        ("https://ann:secret@host:5000/mlflow", "https://host:5000/mlflow"),
        ("https://ann:p@ss@host/x: refused", "https://host/x: refused"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
    ],
)
def test_addresses_are_shown_without_credentials(address, shown_as):
    assert shown(address) == shown_as
