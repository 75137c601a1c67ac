"""Runs on several workers, on every backend: what they share, and how they end together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.base import Backend
from cluster.ending import Ending
from cluster.gang import ECHO_S, PATIENCE_S, judge
from cluster.local import LocalBackend
from orchestrator.plan import Run
from orchestrator.store import Store
from tests.cluster.conftest import Memory
from tests.cluster.test_tune import is_alive
from tests.fakes import make_run
from trainables.base import Place

MakeBackend = Callable[[], Backend]
ROOT = Path(__file__).parents[2]
TWO = Place(workers=2)

DRIVER = """
import sys
from pathlib import Path
from cluster.local import LocalBackend
from orchestrator.store import Store
from tests.cluster.conftest import Memory
from tests.fakes import make_run
from trainables.base import Place

run = make_run("crowd", place=Place(workers=2), steps=999, pause_s=0.05, ledger=sys.argv[2])
LocalBackend().run([run], Store(Path(sys.argv[1])), Memory(hook=lambda *event: print(*event, flush=True)))
"""


class Gangs:
    """One sweep of gangs that go well, fail, and lose workers."""

    def __init__(self, make_backend: MakeBackend, folder: Path) -> None:
        self.store, self.ledger = Store(folder / "my runs"), str(folder / "ledger.txt")
        self.first = make_run("ring", place=TWO, ledger=self.ledger)
        self.second = make_run("ring", self.first, stage="evaluate", place=TWO, reads=1, die_at=3, ledger=self.ledger)
        backend = make_backend()
        self.has_gpus = not isinstance(backend, LocalBackend)
        place = Place(workers=2, gpus=1, device="cpu") if self.has_gpus else TWO
        self.mended = crowd("die", ledger=self.ledger, place=place)
        self.failing = crowd("fail", ledger=self.ledger)
        self.after = make_run("noop", self.mended, stage="evaluate")
        self.runs = [self.first, self.second, self.mended, self.failing, self.after]
        self.memory = Memory()
        backend.run(self.runs, self.store, self.memory)
        self.records = self.store.records(run.id for run in self.runs)

    def processes(self, run: Run) -> list[tuple[int, int]]:
        """Return rank and pid of every process that has worked on a run."""
        lines = [line.split() for line in Path(self.ledger).read_text().splitlines()]
        return [(int(name.rpartition("-")[2]), int(pid)) for name, pid in lines if name.startswith(run.id)]


def crowd(does: str, *, ledger: str = "", times: int = 1, place: Place = TWO, **config: int) -> Run:
    return make_run("crowd", place=place, ledger=ledger, does=does, times=times, **config)


@pytest.fixture(scope="module")
def gangs(make_backend: MakeBackend, tmp_path_factory: pytest.TempPathFactory) -> Gangs:
    return Gangs(make_backend, tmp_path_factory.mktemp("gangs"))


def test_workers_talk_to_each_other_and_what_the_first_measures_counts(gangs: Gangs) -> None:
    record = gangs.records[gangs.first.id]
    assert record.status == "done"
    assert record.metrics["total"] == 3 * (1 + 2 + 3 + 4)
    assert record.history == {"step": [1, 2, 3, 4], "total": [3, 9, 18, 30]}
    assert record.provenance.place["workers"] == 2
    assert [progress.step for progress in gangs.memory.steps[gangs.first.id]] == [1, 2, 3, 4]
    assert 0.01 < (record.provenance.peak_memory_gib or 0) < 8


def test_each_worker_is_a_fresh_process_with_the_threads_of_its_cpus(gangs: Gangs) -> None:
    first, second = gangs.records[gangs.first.id].metrics, gangs.records[gangs.second.id].metrics
    assert (first["threads"], second["threads"]) == ("1;1", "1;1")
    pids = [*str(first["pids"]).split(";"), *str(second["pids"]).split(";")]
    assert len(set(pids)) == 4, "two gangs one after the other"
    assert str(os.getpid()) not in pids
    assert gangs.memory.index("finished", gangs.first) < gangs.memory.index("started", gangs.second)


def test_a_worker_killed_in_a_collective_is_lost_and_the_run_goes_on_from_its_checkpoint(gangs: Gangs) -> None:
    record = gangs.records[gangs.second.id]
    assert gangs.memory.attempts[gangs.second.id] == [1, 2]
    assert (record.status, record.metrics["total"], record.metrics["started_at"]) == ("done", 30, 2)
    assert record.history == {"step": [1, 2, 3, 4], "total": [3, 9, 18, 30]}


def test_workers_that_wait_for_one_that_is_gone_are_ended_with_it(gangs: Gangs) -> None:
    assert gangs.memory.attempts[gangs.mended.id] == [1, 2]
    metrics = gangs.records[gangs.mended.id].metrics
    assert (metrics["total"], metrics["started_at"]) == (15, 2)
    assert gangs.memory.statuses([gangs.after]) == ["done"]


def test_workers_see_the_gpus_that_are_theirs_alone(gangs: Gangs) -> None:
    devices = str(gangs.records[gangs.mended.id].metrics["devices"]).split(";")
    assert len(devices) == 2
    assert len(set(devices) - {""}) == (2 if gangs.has_gpus else 0)


def test_no_process_of_a_gang_is_left(gangs: Gangs) -> None:
    pids = [pid for run in gangs.runs for _, pid in gangs.processes(run) if run is not gangs.after]
    assert len(set(pids)) >= 10
    until = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert [pid for pid in pids if is_alive(pid) and pid != os.getpid()] == []


def test_an_exception_in_any_worker_ends_the_run_with_its_traceback_in_the_log(gangs: Gangs) -> None:
    outcome, record = gangs.memory.outcomes[gangs.failing.id], gangs.records[gangs.failing.id]
    assert outcome.status == record.status == "failed"
    assert outcome.because == record.error == "ValueError: there is no step 3 (worker 1 of 2)"
    assert gangs.memory.attempts[gangs.failing.id] == [1]
    folder = gangs.store.failures / gangs.failing.id / "1"
    assert outcome.log == folder / "log.txt"
    log = outcome.log.read_text()
    assert "in misbehave" in log
    assert "this line is only in the log" in log
    assert "about to fail" in (folder / "log-rank-1.txt").read_text()
    assert record.history == {"step": [1, 2], "total": [1, 3]}


def test_a_gang_that_is_stopped_leaves_a_checkpoint_and_goes_on_from_it(
    make_backend: MakeBackend, store: Store
) -> None:
    run = make_run("crowd", place=TWO, steps=40, pause_s=0.03)
    backend = make_backend()

    def stop_at_three(kind: str, run_id: str) -> None:
        if kind == "progressed" and memory.steps[run_id][-1].step >= 3:
            backend.stop()

    memory, again = Memory(hook=stop_at_three), Memory()
    backend.run([run], store, memory)
    assert memory.statuses([run]) == ["stopped"]
    reached = memory.steps[run.id][-1].step
    assert 3 <= reached < 40
    make_backend().run([run], store, again)
    record = store.record(run.id)
    assert record is not None
    assert (record.status, record.metrics["total"], record.metrics["started_at"]) == ("done", 820, reached)


def test_a_gang_is_given_up_once_it_has_lost_a_worker_three_times(store: Store) -> None:
    run, after = crowd("leave", ledger=str(store.root.with_name("ledger.txt")), times=9, at=2), make_run("noop")
    memory = Memory()
    LocalBackend().run([run, after], store, memory)
    assert memory.statuses([run, after]) == ["killed", "done"]
    assert memory.attempts[run.id] == [1, 2, 3]
    outcome, record = memory.outcomes[run.id], store.record(run.id)
    assert outcome.because == "worker 1 of 2 lost: exit code 7"
    assert outcome.log is not None
    assert "killed: worker 1 of 2 lost" in outcome.log.read_text()
    assert record is not None
    assert record.history == {"step": [1], "total": [1]}


def test_other_ends_of_a_worker_are_the_end_of_the_run(store: Store) -> None:
    hungry = crowd("memory")
    alone = make_run("count", place=TWO, stage="dataset", steps=3)
    memory = Memory()
    LocalBackend().run([hungry, alone], store, memory)
    outcomes = memory.outcomes
    assert memory.statuses([hungry, alone]) == ["oom", "failed"]
    assert outcomes[hungry.id].because == "MemoryError: asked for too much (worker 1 of 2)"
    assert "dataset cannot be shared by several workers: use --place dataset.workers=1" in outcomes[alone.id].because
    assert not store.is_finished(alone.id)


def test_a_gang_out_of_memory_that_left_word_of_a_smaller_micro_batch_starts_again_in_the_same_attempt(
    store: Store,
) -> None:
    ledger = store.root.with_name("ledger.txt")
    run, memory = crowd("shrink", ledger=str(ledger), at=4), Memory()
    LocalBackend().run([run], store, memory)
    record = store.record(run.id)
    assert record is not None
    assert (record.status, record.provenance.attempt) == ("done", 1)
    assert (record.metrics["total"], record.metrics["started_at"]) == (15, 3)
    assert record.history == {"step": [1, 2, 3, 4, 5], "total": [1, 3, 6, 10, 15]}
    assert len({line.split()[1] for line in ledger.read_text().splitlines()}) == 4, "fresh processes"
    log = (store.artefact(run.id) / "log.txt").read_text()
    assert "MemoryError: asked for too much (worker 1 of 2); starts again with a smaller micro-batch" in log


def test_local_workers_see_their_own_share_of_the_gpus_that_the_driver_may_use(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,8")
    run = crowd("", place=Place(workers=2, gpus=1, cpus=2, device="cpu"), steps=1)
    LocalBackend().run([run], store, Memory())
    record = store.record(run.id)
    assert record is not None
    assert (record.metrics["devices"], record.metrics["threads"]) == ("5;7", "2;2")


def test_a_run_has_the_same_id_however_many_workers_it_has() -> None:
    assert make_run("ring", place=TWO).id == make_run("ring", place=Place(gpus=1, zero_stage=3)).id


def test_a_killed_driver_takes_the_processes_of_its_gang_along(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "runs"), str(tmp_path / "ledger")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert any(line.startswith("progressed") for line in driver.stdout)
    pids = [int(line.split()[1]) for line in (tmp_path / "ledger").read_text().splitlines()]
    assert len(pids) == 2
    assert all(map(is_alive, pids))
    driver.kill()
    driver.wait()
    until = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


# -- the verdict, from how workers have ended -------------------------------------------------------------------

DONE, STOPPED, DIVERGED = Ending("done", {"loss": 1.0}), Ending("stopped"), Ending("diverged", error="loss is nan")
LOST, FAILED, MEMORY = (
    Ending("lost", error="killed by SIGKILL"),
    Ending("failed", error="E: x"),
    Ending("oom", error="M"),
)
ECHO = Ending("failed", error="RuntimeError: Connection closed by peer", is_echo=True)


@pytest.mark.parametrize(
    ("endings", "waited_s", "status"),
    [
        ({}, 1e9, None),
        ({0: DONE, 1: DONE, 2: DONE}, 0, "done"),
        ({1: DONE, 2: DONE}, 1e9, None),  # worker 0 may be at work alone
        ({0: DONE}, PATIENCE_S - 1, None),
        ({0: DONE}, PATIENCE_S + 1, "failed"),
        ({1: LOST}, 0, "lost"),
        ({0: ECHO, 1: LOST}, 0, "lost"),
        ({0: ECHO}, ECHO_S - 1, None),  # whoever has gone will be heard of
        ({0: ECHO}, ECHO_S + 1, "lost"),
        ({0: ECHO, 1: ECHO, 2: ECHO}, 0, "lost"),
        ({0: ECHO, 1: FAILED}, 0, "failed"),
        ({0: ECHO, 2: MEMORY}, 0, "oom"),
        ({0: FAILED, 2: MEMORY}, 0, "oom"),
        ({0: DONE, 1: ECHO, 2: DONE}, 0, "failed"),  # nobody has gone before its end
        ({1: FAILED}, 0, "failed"),
        ({0: DIVERGED, 1: DIVERGED}, 1, None),
        ({0: DIVERGED, 1: DIVERGED, 2: ECHO}, 0, "diverged"),
        ({1: DIVERGED}, PATIENCE_S + 1, "diverged"),
        ({0: STOPPED, 1: STOPPED, 2: STOPPED}, 0, "stopped"),
        ({1: STOPPED}, 5, None),  # worker 0 may still write its checkpoint
    ],
)
def test_what_became_of_a_run_of_three_workers(endings: dict[int, Ending], waited_s: float, status: str | None) -> None:
    verdict = judge(3, endings, waited_s)
    assert (None if verdict is None else verdict.status) == status


def test_the_verdict_names_the_worker_and_takes_the_metrics_of_the_first() -> None:
    for endings, said in (
        ({0: ECHO, 2: LOST}, "worker 2 of 3 lost: killed by SIGKILL"),
        ({1: FAILED}, "E: x (worker 1 of 3)"),
        ({0: ECHO, 1: ECHO, 2: ECHO}, "worker 0 of 3 lost its connection: RuntimeError: Connection closed by peer"),
    ):
        verdict = judge(3, endings, 0)
        assert verdict is not None
        assert verdict.error == said
    silent = judge(3, {0: DONE}, PATIENCE_S + 1)
    assert silent is not None
    assert silent.error == f"workers 1, 2 of 3 did not end within {PATIENCE_S:g} s of worker 0"
    done = judge(2, {0: DONE, 1: Ending("done", {"loss": 9.0})}, 0)
    assert done is not None
    assert done.metrics == {"loss": 1.0}
    alone = judge(1, {0: FAILED}, 0)
    assert alone is not None
    assert alone.error == "E: x"
