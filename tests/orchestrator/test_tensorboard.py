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
from orchestrator.store import Store
from orchestrator.tensorboard import Board
from orchestrator.tracking.content import record_points
from tests.orchestrator.synthetic import execute, fill, filled, planned, rank_study
from trainables.base import Progress


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
    found = [(value.tag, event.step, value.simple_value) for event in events(folder) for value in event.summary.value]
    assert set(Counter((tag, step) for tag, step, _ in found).values()) <= {1}
    return {(tag, step): value for tag, step, value in found}


def assert_as_recorded(store: Store, run_id: str, folder: Path) -> None:
    record = store.record(run_id)
    assert record is not None
    expected = {(name, step): value for name, value, _, step in record_points(record)}
    assert scalars(folder) == pytest.approx(expected, rel=1e-6)  # the format has single precision


def test_a_filled_store_gets_one_readable_folder_per_run_with_every_metric_once(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=2, fates={(4, "svd", 2): "oom"}))
    Board(study, store).complete(plan)
    folders = tmp_path / "tensorboard" / "rank_study"
    records = store.records(run.id for run in plan.runs)
    assert len(list(folders.iterdir())) == len(records)
    student = plan.of_stage("student")[0]
    assert (folders / student.name.replace(" ", "-")).is_dir()
    for run_id in records:
        assert_as_recorded(store, run_id, folders / plan[run_id].name.replace(" ", "-"))


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
    assert_as_recorded(store, student.id, folder)


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
    assert_as_recorded(store, student.id, tmp_path / "tensorboard" / "rank_study" / student.name.replace(" ", "-"))


def test_two_runs_of_one_name_have_two_folders(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    Board(study, store).complete(plan)
    other, others, _ = filled(tmp_path, rank_study(ranks=(4,), seeds=1, learning_rate=0.5))
    Board(other, store).complete(others)
    student, again = plan.of_stage("student")[0], others.of_stage("student")[0]
    assert (student.name, student.id != again.id) == (again.name, True)
    folders = tmp_path / "tensorboard" / "rank_study"
    assert_as_recorded(store, student.id, folders / student.name.replace(" ", "-"))
    assert_as_recorded(store, again.id, folders / f"{student.name.replace(' ', '-')}.{again.id.rpartition('-')[2]}")
