"""The store's disk is full in the middle of a run: one line, nothing lost, and the same again once there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.identity import sha256_file
from orchestrator.plan import Run
from orchestrator.store import Store
from tests.cluster.conftest import MakeBackend, Memory
from tests.disks import fill, needs_mounts, small_disk
from tests.fakes import make_run

pytestmark = needs_mounts


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "2m") as folder:
        yield folder


def full_at(folder: Path, kind: str, count: int) -> Memory:
    """Return an observer that fills the disk when it has heard of so many such events."""
    heard: list[str] = []

    def hook(what: str, run_id: str) -> None:
        heard.append(what)
        if what == kind and heard.count(kind) == count:
            fill(folder)
            (folder / "full").touch()  # takes no space

    return Memory(hook=hook)


def sweep_twice(make_backend: MakeBackend, run: Run, disk: Path, memory: Memory) -> Memory:
    """Run until the disk is full, then again with room; return what the second observer heard."""
    store = Store(disk / "runs")
    with pytest.raises(
        StoreError, match=r"no space is left for the store .*make some, and give the same command again"
    ):
        make_backend().run([run], store, memory)
    assert not store.is_finished(run.id)
    assert store.record(run.id) is None, "a full disk is no fault of the run's"
    (disk / "filler").unlink()
    again = Memory()
    make_backend().run([run], store, again)
    assert store.flaws(run.id, sha256_file) == {}
    assert again.statuses([run]) == ["done"]
    assert [path.name for path in store.work.iterdir()] == []
    return again


def test_a_checkpoint_that_does_not_fit_costs_only_the_steps_since_the_last(
    make_backend: MakeBackend, disk: Path
) -> None:
    run = make_run("count", steps=40, pause_s=0.05)
    memory = full_at(disk, "progressed", 5)
    again = sweep_twice(make_backend, run, disk, memory)
    metrics = again.outcomes[run.id].record.metrics  # type: ignore[union-attr]
    assert metrics["total"] == 820
    assert int(metrics["started_at"] or 0) >= 4
    assert again.attempts[run.id] == [2]


def test_a_commit_that_does_not_fit_is_made_by_the_next_command(make_backend: MakeBackend, disk: Path) -> None:
    # Longer than a worker keeps a step to itself.
    run = make_run("sleep", seconds=0.3, steps=1, folder=str(disk), awaits="full", awaited=1)
    again = sweep_twice(make_backend, run, disk, full_at(disk, "progressed", 1))
    assert again.attempts[run.id] == [2]
