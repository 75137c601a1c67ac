"""TensorBoard's event files, read back as TensorBoard reads them: framed records of protocol buffers."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.attempt import Execution
from cluster.base import Job
from orchestrator.plan import Plan
from orchestrator.store import Store
from orchestrator.tensorboard import Board
from orchestrator.tracking.content import record_points
from tests.orchestrator.synthetic import execute, fill, filled, planned, rank_study
from trainables.base import Progress

HPARAMS = "_hparams_/"
PRECISION = 1e-6
"""The format has single precision."""


def events(folder: Path) -> Iterator[Any]:
    """Yield the events of a run's folder: each is its length (8 bytes), a checksum (4), the event, a checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("*tfevents*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """Return what a run's files say, by (metric, step), each there once."""
    values = ((event.step, value) for event in events(folder) for value in event.summary.value)
    found = [(value.tag, step, value.simple_value) for step, value in values if not value.tag.startswith(HPARAMS)]
    assert set(Counter((tag, step) for tag, step, _ in found).values()) <= {1}
    return {(tag, step): value for tag, step, value in found}


def plugin_data(folder: Path) -> list[Any]:
    """Return what a folder's own files say to the tab HPARAMS."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    values = (value for event in events(folder) for value in event.summary.value)
    said = [value.metadata.plugin_data for value in values if value.tag.startswith(HPARAMS)]
    return [HParamsPluginData.FromString(data.content) for data in said if data.plugin_name == "hparams"]


def assert_as_recorded(store: Store, plan: Plan, run_id: str, folder: Path) -> None:
    """The record's own measurements, and those of its one evaluation."""
    record = store.record(run_id)
    assert record is not None
    expected = {(name, step): value for name, value, _, step in record_points(record)}
    found = scalars(folder)
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=PRECISION)
    outcomes = {name: found[name, step] for name, step in set(found) - set(expected)}
    assert {(name, 0) for name in outcomes} == set(found) - set(expected)
    evaluations = [run.id for run in plan.runs if run.inputs.get("subject") == run_id]
    measured = store.record(evaluations[0]) if len(evaluations) == 1 else None
    assert ("test_loss" in outcomes) == (measured is not None)
    assert measured is None or outcomes == pytest.approx(
        {name: measured.metrics[name] for name in outcomes}, rel=PRECISION
    )


def test_a_filled_store_gets_one_readable_folder_per_run_with_every_metric_once(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=2, fates={(4, "svd", 2): "oom"}))
    Board(study, store).complete(plan)
    folders = tmp_path / "tensorboard" / "rank_study"
    records = store.records(run.id for run in plan.runs)
    assert sum(path.is_dir() for path in folders.iterdir()) == len(records)
    student = plan.of_stage("student")[0]
    assert (folders / student.name.replace(" ", "-")).is_dir()
    for run_id in records:
        assert_as_recorded(store, plan, run_id, folders / plan[run_id].name.replace(" ", "-"))


def test_what_is_complete_is_not_written_again_and_what_was_made_again_is(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    Board(study, store).complete(plan)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "tensorboard").rglob("*tfevents*")}
    student = plan.of_stage("student")[0]
    store.forget(student.id)
    execute(student, store)
    Board(study, store).complete(plan)
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "tensorboard").rglob("*tfevents*")}
    changed = {path.parent.name for path in files | now if files.get(path) != now.get(path)}
    assert changed == {student.name.replace(" ", "-")}


def test_a_file_grows_while_the_run_runs_and_its_record_doubles_nothing(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=1), Store(tmp_path)
    plan = planned(study, store)
    fill(plan, store, leave_out={run.name for run in plan.of_stage("student")})
    student, board = plan.of_stage("student")[0], Board(study, store)
    folder = tmp_path / "tensorboard" / "rank_study" / student.name.replace(" ", "-")
    board.started(student, 1)
    execution = Execution(Job(student, store.root))
    seen = []
    for progress in execution:
        board.progressed(student, progress)
        seen.append(len(scalars(folder)))
    assert seen[0] < seen[-1]
    assert execution.outcome is not None
    board.finished(execution.outcome)
    board.complete(plan)
    assert_as_recorded(store, plan, student.id, folder)


def test_a_run_that_was_cut_and_resumed_is_as_its_record_says(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=1), Store(tmp_path)
    plan = planned(study, store)
    fill(plan, store, leave_out={run.name for run in plan.of_stage("student")})
    student = plan.of_stage("student")[0]
    Board(study, store).started(student, 1)
    board = Board(study, store)
    board.started(student, 2)
    board.progressed(student, Progress(9, 20, {"loss": 77.0}))
    board.finished(execute(student, store))
    board.complete(plan)
    assert_as_recorded(
        store, plan, student.id, tmp_path / "tensorboard" / "rank_study" / student.name.replace(" ", "-")
    )


def test_a_file_that_was_emptied_by_a_driver_which_was_killed_is_completed_again(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1, fates={(4, "svd", 1): "failed"}))
    Board(study, store).complete(plan)
    failed = next(run for run in plan.of_stage("student") if not store.is_finished(run.id))
    Board(study, store).started(failed, 2)  # and nothing is heard of this driver again
    Board(study, store).complete(plan)
    folder = tmp_path / "tensorboard" / "rank_study" / failed.name.replace(" ", "-")
    assert_as_recorded(store, plan, failed.id, folder)


def test_two_runs_of_one_name_have_two_folders(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    Board(study, store).complete(plan)
    other, others, _ = filled(tmp_path, rank_study(ranks=(4,), seeds=1, learning_rate=0.5))
    Board(other, store).complete(others)
    student, again = plan.of_stage("student")[0], others.of_stage("student")[0]
    assert (student.name, student.id != again.id) == (again.name, True)
    folders = tmp_path / "tensorboard" / "rank_study"
    assert_as_recorded(store, plan, student.id, folders / student.name.replace(" ", "-"))
    assert_as_recorded(
        store, others, again.id, folders / f"{student.name.replace(' ', '-')}.{again.id.rpartition('-')[2]}"
    )


def test_the_tab_hparams_has_the_params_of_every_student_and_the_outcome(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4, 8), seeds=2))
    Board(study, store).complete(plan)
    folders = tmp_path / "tensorboard" / "rank_study"
    (columns,) = plugin_data(folders)
    names = [info.name for info in columns.experiment.hparam_infos]
    assert {"rank", "init", "seed"} <= set(names)
    assert "steps" not in names, "what does not vary is no column"
    assert columns.experiment.metric_infos[0].name.tag == "test_loss"
    for run in plan.of_stage("student"):
        folder = folders / run.name.replace(" ", "-")
        (said,) = plugin_data(folder)
        given = said.session_start_info.hparams
        assert given["rank"].number_value == run.labels["student.rank"]
        assert given["init"].string_value == run.labels["student.init"]
        assert set(names) <= set(given)
        assert ("test_loss", 0) in scalars(folder)
    assert not plugin_data(folders / "teacher")
