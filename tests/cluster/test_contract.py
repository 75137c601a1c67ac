"""The contract of `cluster.base`, on every backend."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.base import Backend
from orchestrator.errors import InfeasibleError
from orchestrator.plan import Run
from orchestrator.store import Store
from tests.cluster.conftest import Memory
from tests.fakes import make_run
from trainables.base import Place

MakeBackend = Callable[[], Backend]


def executions(ledger: str) -> Counter[str]:
    path = Path(ledger)
    return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()


def diamond(ledger: str) -> tuple[Run, Run, Run, Run]:
    base = make_run("noop", stage="base", ledger=ledger)
    left = make_run("noop", base, stage="left", ledger=ledger)
    right = make_run("sleep", base, stage="right", seconds=0.2, ledger=ledger)
    return base, left, right, make_run("noop", left, right, stage="top", ledger=ledger)


def test_a_run_starts_after_the_ends_of_all_it_needs_were_told(
    make_backend: MakeBackend, store: Store, ledger: str
) -> None:
    base, left, right, top = runs = diamond(ledger)
    memory = Memory()
    make_backend().run(runs, store, memory)
    assert memory.statuses(runs) == ["done"] * 4
    assert memory.index("finished", base) < min(memory.index("started", left), memory.index("started", right))
    assert max(memory.index("finished", left), memory.index("finished", right)) < memory.index("started", top)
    for run in runs:
        kinds = [kind for kind, run_id in memory.events if run_id == run.id]
        assert kinds[0] == "started"
        assert kinds[-1] == "finished"
        assert set(kinds[1:-1]) == {"progressed"}
    assert executions(ledger) == dict.fromkeys([run.id for run in runs], 1)


def test_what_ended_is_in_the_store_when_the_observer_hears_of_it(make_backend: MakeBackend, store: Store) -> None:
    runs = [make_run("noop", seed=1), make_run("fail", seed=2)]
    found: dict[str, str] = {}

    def look(kind: str, run_id: str) -> None:
        record = store.record(run_id)
        if kind == "finished" and record is not None:
            found[run_id] = record.status

    make_backend().run(runs, store, Memory(hook=look))
    assert found == {runs[0].id: "done", runs[1].id: "failed"}


def test_dependants_of_what_failed_or_diverged_are_skipped_with_the_reason_and_others_finish(
    make_backend: MakeBackend, store: Store, ledger: str
) -> None:
    failing = make_run("fail", stage="svd_export")
    diverging = make_run("fail", stage="teacher", how="diverge")
    hungry = make_run("fail", stage="base", how="memory")
    student = make_run("noop", failing, seed=1, ledger=ledger)
    evaluation = make_run("noop", student, stage="evaluate", ledger=ledger)
    other = make_run("noop", diverging, seed=2, ledger=ledger)
    third = make_run("noop", hungry, seed=3, ledger=ledger)
    free = make_run("noop", seed=4, ledger=ledger)
    runs = [failing, diverging, hungry, student, evaluation, other, third, free]
    memory = Memory()
    make_backend().run(runs, store, memory)
    assert memory.statuses(runs) == ["failed", "diverged", "oom", *["skipped"] * 4, "done"]
    because = {run.id: outcome.because for run, outcome in zip(runs, map(memory.outcomes.get, (r.id for r in runs)))}
    assert because[student.id] == because[evaluation.id] == f"needs {failing.id}, which failed"
    assert because[other.id] == f"needs {diverging.id}, which diverged"
    assert because[third.id] == f"needs {hungry.id}, which ran out of memory"
    assert executions(ledger) == {free.id: 1}
    assert not {run.id for run in (student, evaluation, other, third)} & set(memory.attempts)


def test_a_failure_leaves_its_log_its_record_and_its_first_line(make_backend: MakeBackend, store: Store) -> None:
    run = make_run("fail")
    memory = Memory()
    make_backend().run([run], store, memory)
    outcome = memory.outcomes[run.id]
    folder = store.failures / run.id / "1"
    assert outcome.log == folder / "log.txt"
    assert outcome.because == "ValueError: there is no step 2"
    log = (folder / "log.txt").read_text()
    assert "about to fail" in log
    assert "this line is only in the log" in log
    record = store.record(run.id)
    assert record is not None
    assert (record.status, record.error, record.provenance.attempt) == ("failed", "ValueError: there is no step 2", 1)
    assert list(record.history_rows()) == [{"step": 1, "loss": 2.0}]
    assert not store.is_finished(run.id)

    make_backend().run([run], store, Memory())
    assert [path.name for path in sorted((store.failures / run.id).iterdir())] == ["1", "2"]


def test_a_run_that_diverged_is_final_and_keeps_its_history(make_backend: MakeBackend, store: Store) -> None:
    run = make_run("fail", how="diverge")
    memory = Memory()
    make_backend().run([run], store, memory)
    record = store.record(run.id)
    assert record is not None
    assert store.is_finished(run.id)
    assert (record.status, record.error) == ("diverged", "loss is nan at step 2")
    assert record.history == {"step": [1], "loss": [2.0]}


def test_a_committed_run_leaves_no_work_behind(make_backend: MakeBackend, store: Store) -> None:
    run = make_run("count", steps=3)
    make_backend().run([run], store, Memory())
    assert list(store.work.iterdir()) == []
    assert (store.artefact(run.id) / "total.txt").read_text() == "6"
    assert store.damage(run.id) == []


def test_every_step_is_heard_in_order_and_is_in_the_record(make_backend: MakeBackend, store: Store) -> None:
    run = make_run("count", steps=200)
    memory = Memory()
    make_backend().run([run], store, memory)
    assert [progress.step for progress in memory.steps[run.id]] == list(range(1, 201))
    record = store.record(run.id)
    assert record is not None
    assert record.history["total"] == [step * (step + 1) / 2 for step in range(1, 201)]


def test_a_finished_run_is_told_as_done_and_not_executed_again(
    make_backend: MakeBackend, store: Store, ledger: str
) -> None:
    runs = diamond(ledger)
    make_backend().run(runs[:2], store, Memory())
    memory = Memory()
    make_backend().run(runs, store, memory)
    assert memory.statuses(runs) == ["done"] * 4
    assert runs[0].id not in memory.attempts
    assert set(executions(ledger).values()) == {1}


def test_what_the_store_holds_serves_as_input_and_what_it_lacks_skips(make_backend: MakeBackend, store: Store) -> None:
    base, diverged, absent = make_run("noop", stage="base"), make_run("fail", how="diverge"), make_run("noop", seed=9)
    make_backend().run([base, diverged], store, Memory())
    runs = [make_run("noop", base, seed=1), make_run("noop", diverged, seed=2), make_run("noop", absent, seed=3)]
    runs.append(make_run("noop", runs[2], stage="evaluate"))
    memory = Memory()
    make_backend().run(runs, store, memory)
    assert memory.statuses(runs) == ["done", "skipped", "skipped", "skipped"]
    assert memory.outcomes[runs[1].id].because == f"needs {diverged.id}, which diverged"
    assert memory.outcomes[runs[3].id].because == f"needs {absent.id}, which is not in the store"


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
        begun.wait(30)
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


@pytest.mark.parametrize("kind", ["started", "progressed", "finished"])
def test_what_the_observer_raises_comes_out_and_nothing_starts_after_it(
    make_backend: MakeBackend, store: Store, ledger: str, kind: str
) -> None:
    first = make_run("count", steps=3, ledger=ledger)
    second = make_run("noop", first, stage="evaluate", ledger=ledger)

    def fail(seen: str, run_id: str) -> None:
        if seen == kind:
            raise Broken(kind)

    memory = Memory(hook=fail)
    with pytest.raises(Broken, match=kind):
        make_backend().run([first, second], store, memory)
    assert [event for event in memory.events if event[0] == kind] == [(kind, first.id)]
    assert memory.events[-1] == (kind, first.id)
    assert second.id not in executions(ledger)

    make_backend().run([first, second], store, Memory())
    assert store.is_finished(first.id)
    assert store.is_finished(second.id)


def test_a_store_that_cannot_be_written_comes_out_as_one_line(make_backend: MakeBackend, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the store should be")
    with pytest.raises(Exception, match="cannot write to the store") as caught:
        make_backend().run([make_run("noop")], Store(tmp_path / "runs"), Memory())
    assert "\n" not in str(caught.value)


def test_ready_runs_start_by_their_longest_remaining_path(make_backend: MakeBackend, store: Store) -> None:
    place = Place(cpus=8)  # all of the session's: one at a time on either backend
    short = make_run("noop", seed=1, place=place, cost_s=1)
    head = make_run("noop", seed=2, place=place, cost_s=2)
    middle = make_run("noop", seed=3, place=place, cost_s=3)
    tail = make_run("noop", head, stage="evaluate", place=place, cost_s=50)
    memory = Memory()
    make_backend().run([short, head, middle, tail], store, memory)
    order = [run_id for kind, run_id in memory.events if kind == "started"]
    assert order == [run.id for run in (head, tail, middle, short)]


def test_runs_of_several_workers_are_refused_in_words(make_backend: MakeBackend) -> None:
    with pytest.raises(InfeasibleError, match=r"^teacher asks for 2 workers; .*--place teacher.workers=1$"):
        make_backend().check({"dataset": Place(), "teacher": Place(workers=2)})
