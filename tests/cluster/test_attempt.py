"""One attempt at a run: what it leaves as it goes, and what the next one finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.attempt import Execution, limit_threads, request_stop, stop_requested
from cluster.base import Job
from cluster.ending import keep_killed
from cluster.notes import append_rows, read_progress
from orchestrator.store import Store
from tests.fakes import make_run
from trainables.base import Place


def job_of(store: Store, fake: str, **config: int | float | str) -> Job:
    return Job(make_run(fake, **config), store.root)


def test_an_abandoned_attempt_is_taken_up_at_its_last_checkpoint_with_its_whole_history(store: Store) -> None:
    job = job_of(store, "count", steps=6)
    first = Execution(job)
    for _ in range(4):
        next(first)
    first.close()  # after the yield of step 4, before its checkpoint
    second = Execution(job)
    assert second.attempt.resume_from is not None
    assert second.attempt.resume_from.name == "step-3"
    assert [progress.step for progress in second] == [4, 5, 6]
    assert second.outcome is not None
    assert second.outcome.record is not None
    assert second.outcome.record.history == {"step": [1, 2, 3, 4, 5, 6], "total": [1, 3, 6, 10, 15, 21]}
    assert second.outcome.record.provenance.attempt == 2


def test_an_attempt_with_a_successor_cannot_commit_or_fail(store: Store) -> None:
    job = job_of(store, "count", steps=2)
    first, second = Execution(job), Execution(job)
    assert [progress.step for progress in first] == [1, 2]
    assert first.outcome is not None
    assert (first.outcome.status, store.is_finished(job.run.id)) == ("superseded", False)
    for _ in second:
        pass
    assert second.outcome is not None
    assert second.outcome.status == "done"


def test_an_attempt_that_finds_its_run_finished_is_superseded(store: Store) -> None:
    job = job_of(store, "count", steps=3)
    late = Execution(job)
    next(late)
    early = Execution(job)
    for _ in early:
        pass
    assert early.outcome is not None
    assert early.outcome.status == "done"
    for _ in late:  # its folder is gone
        pass
    assert late.outcome is not None
    assert late.outcome.status == "superseded"
    assert not store.failures.exists()


def test_a_stop_file_of_the_run_or_of_the_sweep_stops_it_at_the_next_step(store: Store, tmp_path: Path) -> None:
    for halt in (None, tmp_path / "halt"):
        job = job_of(store, "count", steps=9, seed=int(halt is None))
        execution = Execution(job, halt=halt)
        next(execution)
        assert not stop_requested(execution.attempt, halt)
        request_stop(store, job.run.id) if halt is None else halt.touch()
        assert list(execution) == []
        assert execution.outcome is not None
        assert execution.outcome.status == "stopped"
        assert (execution.attempt.checkpoints / "step-1").is_dir()


def test_measurements_of_one_step_are_merged_and_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    append_rows(tmp_path, [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}])
    append_rows(tmp_path, [{"step": 2, "eval_loss": 2.5}])
    with (tmp_path / "rows.jsonl").open("a") as stream:
        stream.write('{"step": 3, "lo')
    assert read_progress(tmp_path) == {"rows": [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "eval_loss": 2.5}]}


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_killed_run_becomes_a_failure_whether_it_had_begun_or_not(store: Store, has_begun: bool) -> None:
    job = job_of(store, "count", steps=3)
    if has_begun:
        next(Execution(job))
    outcome = keep_killed(job, "worker lost: no reason known", "node7")
    assert (outcome.status, outcome.because) == ("killed", "worker lost: no reason known")
    record = store.record(job.run.id)
    assert record is not None
    assert (record.status, record.provenance.attempt, record.provenance.host) == ("killed", 1, "node7")
    assert record.history == ({"step": [1], "total": [1.0]} if has_begun else {})
    assert outcome.log is not None
    assert "no reason known" in outcome.log.read_text()


def test_a_run_has_as_many_threads_as_cpus_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    limit_threads(Place(cpus=3))
    assert os.environ["OMP_NUM_THREADS"] == "3"
    limit_threads(Place(cpus=0.25))
    assert os.environ["OMP_NUM_THREADS"] == "1"
