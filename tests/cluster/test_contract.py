"""The contract of `cluster.base`, on every backend."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.base import Backend
from cluster.local import LocalBackend
from orchestrator.errors import StoreError
from orchestrator.identity import sha256_file
from orchestrator.plan import Run
from orchestrator.record import Record
from orchestrator.store import Store
from tests.cluster.conftest import Memory
from tests.fakes import make_run
from trainables.base import Place

MakeBackend = Callable[[], Backend]


def executions(ledger: str) -> Counter[str]:
    path = Path(ledger)
    return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()


class Sweep:
    """One sweep in which everything happens that may happen to a run, and the same command once more."""

    def __init__(self, make_backend: MakeBackend, folder: Path) -> None:
        self.store, self.ledger = Store(folder / "my runs"), str(folder / "ledger.txt")
        base = make_run("noop", stage="base", ledger=self.ledger)
        left = make_run("noop", base, stage="left", ledger=self.ledger)
        right = make_run("sleep", base, stage="right", seconds=0.1, ledger=self.ledger)
        top = make_run("noop", left, right, stage="top", ledger=self.ledger)
        count = make_run("count", steps=200, ledger=self.ledger)
        self.good = [base, left, right, top, count]
        self.failing = make_run("fail", stage="svd_export")
        self.diverging = make_run("fail", stage="teacher", how="diverge")
        self.hungry = make_run("fail", stage="base", how="memory")
        self.absent = make_run("noop", seed=9)
        first = make_run("noop", self.failing, seed=1, ledger=self.ledger)
        second = make_run("noop", first, base, stage="evaluate", ledger=self.ledger)
        self.skipped = [
            (first, f"needs {self.failing.id}, which failed"),
            (second, f"needs {self.failing.id}, which failed"),
            (make_run("noop", self.diverging, seed=2), f"needs {self.diverging.id}, which diverged"),
            (make_run("noop", self.hungry, seed=3), f"needs {self.hungry.id}, which ran out of memory"),
            (make_run("noop", self.absent, seed=4), f"needs {self.absent.id}, which is not in the store"),
        ]
        self.runs: list[Run] = [*self.good, self.failing, self.diverging, self.hungry]
        self.runs += [run for run, _ in self.skipped]
        self.told_before_stored: list[str] = []
        self.memory, self.again = Memory(hook=self.look), Memory()
        make_backend().run(self.runs, self.store, self.memory)
        self.records = self.store.records(run.id for run in self.runs)
        self.executions = executions(self.ledger)
        make_backend().run(self.runs, self.store, self.again)

    def look(self, kind: str, run_id: str) -> None:
        if kind == "finished" and self.memory.outcomes[run_id].status != "skipped" and not self.store.record(run_id):
            self.told_before_stored.append(run_id)


@pytest.fixture(scope="module")
def sweep(make_backend: MakeBackend, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return Sweep(make_backend, tmp_path_factory.mktemp("sweep"))


def test_a_run_starts_after_the_ends_of_all_it_needs_were_told(sweep: Sweep) -> None:
    base, left, right, top, _ = sweep.good
    memory = sweep.memory
    assert memory.statuses(sweep.good) == ["done"] * 5
    assert memory.index("finished", base) < min(memory.index("started", left), memory.index("started", right))
    assert max(memory.index("finished", left), memory.index("finished", right)) < memory.index("started", top)


def test_each_run_is_told_as_started_then_its_steps_then_its_end(sweep: Sweep) -> None:
    for run in [*sweep.good, sweep.failing, sweep.diverging]:
        kinds = [kind for kind, run_id in sweep.memory.events if run_id == run.id]
        assert kinds == ["started", *["progressed"] * (len(kinds) - 2), "finished"]
        assert len(kinds) > 2


def test_no_run_is_executed_twice(sweep: Sweep) -> None:
    assert sweep.executions == dict.fromkeys([run.id for run in sweep.good], 1)


def test_what_ended_is_in_the_store_when_the_observer_hears_of_it(sweep: Sweep) -> None:
    assert sweep.told_before_stored == []


def test_dependants_of_what_did_not_end_well_are_skipped_with_the_reason(sweep: Sweep) -> None:
    assert sweep.memory.statuses([sweep.failing, sweep.diverging, sweep.hungry]) == ["failed", "diverged", "oom"]
    for run, because in sweep.skipped:
        outcome = sweep.memory.outcomes[run.id]
        assert (outcome.status, outcome.because, outcome.record) == ("skipped", because, None)
        assert run.id not in sweep.memory.attempts


def test_a_failure_leaves_its_log_its_record_and_its_first_line(sweep: Sweep) -> None:
    outcome, record = sweep.memory.outcomes[sweep.failing.id], sweep.records[sweep.failing.id]
    folder = sweep.store.failures / sweep.failing.id / "1"
    assert outcome.log == folder / "log.txt"
    assert outcome.because == record.error == "ValueError: there is no step 2"
    log = (folder / "log.txt").read_text()
    assert "about to fail" in log
    assert "this line is only in the log" in log
    assert (record.status, record.provenance.attempt) == ("failed", 1)
    assert list(record.history_rows()) == [{"step": 1, "loss": 2.0}]
    assert not sweep.store.is_finished(sweep.failing.id)


def test_a_run_that_diverged_is_final_and_keeps_its_history(sweep: Sweep) -> None:
    record = sweep.records[sweep.diverging.id]
    assert sweep.store.is_finished(sweep.diverging.id)
    assert (record.status, record.error) == ("diverged", "loss is nan at step 2")
    assert record.history == {"step": [1], "loss": [2.0]}


def test_every_step_is_heard_in_order_and_is_in_the_record(sweep: Sweep) -> None:
    run = sweep.good[-1]
    assert [progress.step for progress in sweep.memory.steps[run.id]] == list(range(1, 201))
    assert sweep.records[run.id].history["total"] == [step * (step + 1) / 2 for step in range(1, 201)]


def test_a_committed_run_leaves_no_work_behind_and_a_whole_artefact(sweep: Sweep) -> None:
    left = {path.name for path in sweep.store.work.iterdir()}
    assert left == {sweep.failing.id, sweep.hungry.id}
    for run in sweep.good:
        assert sweep.store.flaws(run.id, sha256_file) == {}
    assert (sweep.store.artefact(sweep.good[-1].id) / "total.txt").read_text() == "20100"


def test_a_record_says_where_and_how_long_its_run_executed(sweep: Sweep) -> None:
    record: Record = sweep.records[sweep.good[2].id]
    assert 0.1 <= record.provenance.seconds < 30
    assert record.provenance.host
    assert record.provenance.place["cpus"] == 1
    assert 0.005 < (record.provenance.peak_memory_gib or 0) < 8
    assert record.provenance.source


def test_the_same_sweep_again_executes_only_what_failed(sweep: Sweep) -> None:
    assert sweep.again.statuses(sweep.runs) == sweep.memory.statuses(sweep.runs)
    assert executions(sweep.ledger) == sweep.executions
    assert set(sweep.again.attempts) == {sweep.failing.id, sweep.hungry.id}
    assert sweep.again.attempts[sweep.failing.id] == [2]
    assert sorted(path.name for path in (sweep.store.failures / sweep.failing.id).iterdir()) == ["1", "2"]


def test_what_the_store_holds_serves_as_input(make_backend: MakeBackend, sweep: Sweep) -> None:
    runs = [make_run("noop", sweep.good[0], seed=11), make_run("noop", sweep.diverging, seed=12)]
    memory = Memory()
    make_backend().run(runs, sweep.store, memory)
    assert memory.statuses(runs) == ["done", "skipped"]


def test_stopped_runs_leave_a_checkpoint_and_the_next_sweep_goes_on_from_it(
    make_backend: MakeBackend, store: Store, ledger: str
) -> None:
    run = make_run("count", steps=30, pause_s=0.03, ledger=ledger)
    after = make_run("noop", run, stage="evaluate", ledger=ledger)
    backend = make_backend()

    def stop_at_five(kind: str, run_id: str) -> None:
        if kind == "progressed" and len(memory.steps[run_id]) == 5:
            backend.stop()

    memory = Memory(hook=stop_at_five)
    backend.run([run, after], store, memory)
    assert memory.statuses([run, after]) == ["stopped", "-"]
    assert memory.outcomes[run.id].record is None
    reached = memory.steps[run.id][-1].step
    assert 5 <= reached < 30

    again = Memory()
    make_backend().run([run, after], store, again)
    assert again.statuses([run, after]) == ["done", "done"]
    assert again.attempts[run.id] == [2]
    assert again.steps[run.id][0].step == reached + 1
    record = store.record(run.id)
    assert record is not None
    assert record.metrics == {"total": 465, "started_at": reached}
    assert record.history["total"] == [step * (step + 1) / 2 for step in range(1, 31)]
    assert executions(ledger) == {run.id: 2, after.id: 1}


def test_nothing_starts_once_stop_was_called(make_backend: MakeBackend, store: Store, ledger: str) -> None:
    backend = make_backend()
    backend.stop()
    memory = Memory()
    backend.run([make_run("noop", ledger=ledger)], store, memory)
    assert memory.events == []
    assert executions(ledger) == {}


def test_stop_may_come_from_another_thread_in_the_middle_of_a_run(make_backend: MakeBackend, store: Store) -> None:
    backend = make_backend()
    runs = [make_run("count", seed=seed, steps=500, pause_s=0.02) for seed in range(2)]
    begun = threading.Event()

    def stop() -> None:
        begun.wait()
        time.sleep(0.3)
        backend.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    memory = Memory(hook=lambda kind, run_id: begun.set())
    backend.run(runs, store, memory)
    thread.join()
    assert set(memory.statuses(runs)) <= {"stopped", "-"}
    assert "stopped" in memory.statuses(runs)


class Broken(Exception):
    """What an observer of these tests raises."""


@dataclass
class Breaking:
    """Raises at the first event of a kind."""

    kind: str

    def __call__(self, kind: str, run_id: str) -> None:
        if kind == self.kind:
            raise Broken(kind)


@pytest.mark.parametrize("kind", ["started", "progressed", "finished"])
def test_what_the_observer_raises_comes_out_and_nothing_starts_after_it(
    make_backend: MakeBackend, store: Store, ledger: str, kind: str
) -> None:
    first = make_run("count", steps=3, ledger=ledger)
    second = make_run("noop", first, stage="evaluate", ledger=ledger)
    memory = Memory(hook=Breaking(kind))
    with pytest.raises(Broken, match=kind):
        make_backend().run([first, second], store, memory)
    assert memory.events[-1] == (kind, first.id)
    assert [event for event in memory.events if event[0] == kind] == [(kind, first.id)]
    assert second.id not in executions(ledger)

    LocalBackend().run([first, second], store, Memory())
    assert store.is_finished(first.id)
    assert store.is_finished(second.id)


def test_a_store_that_cannot_be_written_comes_out_as_one_line(make_backend: MakeBackend, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the store should be")
    with pytest.raises(StoreError, match="cannot write to the store") as caught:
        make_backend().run([make_run("noop")], Store(tmp_path / "runs"), Memory())
    assert "\n" not in str(caught.value)


def test_ready_runs_start_by_their_longest_remaining_path(make_backend: MakeBackend, store: Store) -> None:
    place = Place(cpus=2)  # all of the session's: one at a time on either backend
    short = make_run("noop", seed=1, place=place, cost_s=1)
    head = make_run("noop", seed=2, place=place, cost_s=2)
    middle = make_run("noop", seed=3, place=place, cost_s=3)
    tail = make_run("noop", head, stage="evaluate", place=place, cost_s=50)
    memory = Memory()
    make_backend().run([short, head, middle, tail], store, memory)
    order = [run_id for kind, run_id in memory.events if kind == "started"]
    assert order == [run.id for run in (head, tail, middle, short)]


def test_runs_that_are_planned_while_the_sweep_runs_join_it(
    make_backend: MakeBackend, store: Store, ledger: str
) -> None:
    base, failing = make_run("noop", stage="base", ledger=ledger), make_run("fail", stage="teacher")
    first = make_run("noop", base, seed=1, ledger=ledger)
    more = make_run("noop", base, first, seed=2, ledger=ledger)
    after = make_run("noop", more, stage="evaluate", ledger=ledger)
    lost = make_run("noop", failing, seed=3, reads=1, ledger=ledger)
    lost_too = make_run("noop", lost, seed=4, reads=1, stage="evaluate", ledger=ledger)
    last = make_run("noop", after, seed=5, ledger=ledger)
    memory = Memory(later={first.id: [more, after], failing.id: [lost, lost_too], after.id: [last]})
    make_backend().run([base, failing, first], store, memory)
    assert memory.statuses([base, first, more, after, last]) == ["done"] * 5
    assert memory.index("finished", more) < memory.index("started", after)
    assert memory.statuses([failing, lost, lost_too]) == ["failed", "skipped", "skipped"]
    assert memory.outcomes[lost_too.id].because == f"needs {failing.id}, which failed"
    assert executions(ledger) == dict.fromkeys([run.id for run in (base, first, more, after, last)], 1)
