"""What only Ray can do, and what Ray does on its own unless told otherwise."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InfeasibleError
from orchestrator.plan import Run
from orchestrator.record import Record
from orchestrator.store import Store
from tests.cluster import driver
from tests.cluster.conftest import Memory
from tests.fakes import make_run
from trainables.base import Place

ROOT = Path(__file__).parents[2]


def sweep(runs: list[Run], store: Store) -> tuple[Memory, dict[str, Record]]:
    from cluster.tune import TuneBackend

    memory = Memory()
    TuneBackend().run(runs, store, memory)
    return memory, store.records(run.id for run in runs)


@pytest.mark.usefixtures("ray_session")
def test_workers_are_reused_and_see_the_cpus_and_gpus_of_their_runs(store: Store) -> None:
    small = [make_run("sleep", seed=seed, seconds=0.02) for seed in range(12)]
    wide = make_run("sleep", seed=20, seconds=0.02, place=Place(cpus=2))
    pair = make_run("sleep", seed=21, seconds=0.02, place=Place(gpus=2))
    halves = [make_run("sleep", seed=seed, seconds=1.0, place=Place(gpus=0.5, cpus=0.5)) for seed in (22, 23)]
    _, records = sweep([*small, wide, pair, *halves], store)
    metrics = {run_id: record.metrics for run_id, record in records.items()}
    assert len({metrics[run.id]["pid"] for run in small}) < 6, "twelve runs need few processes"
    assert max(int(metrics[run.id]["runs_in_this_process"] or 0) for run in small) > 2
    assert {metrics[run.id]["threads"] for run in small} == {"1"}
    assert metrics[wide.id]["threads"] == "2"
    assert len(str(metrics[pair.id]["cuda_visible_devices"]).split(",")) == 2
    assert metrics[wide.id]["cuda_visible_devices"] == ""
    assert metrics[wide.id]["pid"] != metrics[pair.id]["pid"]
    first, second = (records[run.id] for run in halves)
    assert first.metrics["cuda_visible_devices"] == second.metrics["cuda_visible_devices"] != "", "halves of one GPU"


@pytest.mark.usefixtures("ray_session")
def test_a_run_whose_worker_is_killed_goes_on_from_its_checkpoint_and_is_given_up_in_the_end(
    store: Store, ledger: str
) -> None:
    mended = make_run("count", steps=8, die_at=5, deaths=1, ledger=ledger)
    doomed = make_run("count", steps=9, die_at=2, deaths=99, ledger=ledger)
    after_mended, after_doomed = (make_run("noop", run, stage="evaluate") for run in (mended, doomed))
    memory, records = sweep([mended, doomed, after_mended, after_doomed], store)

    assert memory.statuses([mended, after_mended]) == ["done", "done"]
    assert memory.attempts[mended.id] == [1, 2]
    assert records[mended.id].metrics == {"total": 36, "started_at": 5}
    assert records[mended.id].history["step"] == list(range(1, 9))

    assert memory.statuses([doomed, after_doomed]) == ["killed", "skipped"]
    assert memory.outcomes[after_doomed.id].because == f"needs {doomed.id}, which was killed"
    outcome, record = memory.outcomes[doomed.id], records[doomed.id]
    assert memory.attempts[doomed.id] == [1, 2, 3]
    assert outcome.log == store.failures / doomed.id / "3" / "log.txt"
    assert record.status == "killed"
    assert "worker lost: The actor died unexpectedly" in (record.error or "")
    assert "class_name" not in (record.error or "")
    assert record.provenance.host
    assert [path.name for path in store.work.iterdir()] == [doomed.id]


@pytest.mark.usefixtures("ray_session")
def test_random_students_train_while_the_teacher_still_runs(store: Store) -> None:
    dataset = make_run("noop", stage="dataset")
    waits: dict[str, Any] = {"folder": str(store.artefacts), "awaits": "student-*/record.json", "awaited": 3}
    teacher = make_run("sleep", dataset, stage="teacher", cost_s=100, **waits)
    export = make_run("noop", teacher, stage="svd_export")
    random = [make_run("sleep", dataset, seed=seed, seconds=0.1) for seed in range(3)]
    svd = [make_run("sleep", dataset, export, seed=seed, seconds=0.1) for seed in range(3)]
    runs = [dataset, teacher, export, *random, *svd]
    memory, records = sweep(runs, store)
    assert memory.statuses(runs) == ["done"] * len(runs)
    teacher_ends = records[teacher.id].provenance.finished
    assert all(records[run.id].provenance.finished < teacher_ends for run in random)
    assert all(records[run.id].provenance.started > teacher_ends for run in svd)


@pytest.mark.usefixtures("ray_session")
def test_runs_join_the_one_experiment_while_it_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster import tune

    experiments: list[str] = []
    start = tune.tune.run

    def counted(*arguments: Any, **options: Any) -> Any:
        experiments.append(options["name"])
        return start(*arguments, **options)

    monkeypatch.setattr(tune.tune, "run", counted)
    tuning = [make_run("sleep", seed=seed, seconds=0.05) for seed in range(2)]
    waits: dict[str, Any] = {"folder": str(store.artefacts), "awaits": "student-*/record.json", "awaited": 4}
    teacher = make_run("sleep", stage="teacher", **waits)
    chosen = [make_run("sleep", seed=seed, seconds=0.05) for seed in (8, 9)]
    memory = Memory(later={tuning[1].id: chosen})
    tune.TuneBackend().run([teacher, *tuning], store, memory)
    assert memory.statuses([teacher, *tuning, *chosen]) == ["done"] * 5
    assert max(memory.index("finished", run) for run in chosen) < memory.index("finished", teacher)
    assert experiments == ["sweep"]


@pytest.mark.usefixtures("ray_session")
def test_what_no_node_can_hold_is_refused_before_anything_starts(store: Store, ledger: str) -> None:
    runs = [make_run("noop", ledger=ledger), make_run("noop", stage="teacher", place=Place(gpus=8))]
    with pytest.raises(InfeasibleError, match=r"^teacher asks for 8 GPUs, 1 CPU; the largest node has 4 GPUs, 2 CPUs"):
        sweep(runs, store)
    assert not Path(ledger).exists()
    assert not store.root.exists()


def test_a_sweep_waits_for_nodes_that_have_gone_and_gives_up_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster import tune

    monkeypatch.setattr(tune, "NODES_EVERY_S", 0.0)
    counts = iter([{"a": {"CPU": 2.0}}, {"a": {"CPU": 2.0}}, {}, {"b": {"CPU": 1.0}}])
    nodes = tune.Nodes(lambda: next(counts))
    assert [nodes.changed(), nodes.changed(), nodes.changed()] == [False, True, True]
    stranded = [make_run("noop", stage="teacher", place=Place(cpus=2))]
    nodes.wait_for(stranded)
    nodes.wait_for([])
    nodes.wait_for(stranded)
    monkeypatch.setattr(tune, "WAIT_FOR_NODES_S", 0.0)
    with pytest.raises(InfeasibleError, match=r"^teacher asks for 2 CPUs; the largest node has 1 CPU\. "):
        nodes.wait_for(stranded)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_gang_whose_driver_is_killed_is_ended_and_goes_on_with_another(store: Store, ledger: str) -> None:
    from cluster.tune import TuneBackend

    run = make_run("crowd", place=Place(workers=2), steps=40, pause_s=0.1, ledger=ledger)
    killed: list[int] = []

    def kill(kind: str, run_id: str) -> None:
        if kind == "progressed" and not killed and memory.steps[run_id][-1].step >= 5:
            killed.extend(drivers_beside(int(Path(ledger).read_text().split()[1])))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    memory = Memory(hook=kill)
    TuneBackend().run([run], store, memory)
    record = store.record(run.id)
    assert record is not None
    assert len(killed) == 1
    assert memory.attempts[run.id] == [1, 2]
    assert (record.status, record.metrics["total"]) == ("done", 820)
    assert int(record.metrics["started_at"] or 0) >= 4
    first_two = [int(line.split()[1]) for line in Path(ledger).read_text().splitlines()][:2]
    assert not any(map(is_alive, first_two))


def drivers_beside(pid: int) -> list[int]:
    """Return the processes of Tune's own actors that have the same parent, the raylet."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()[1]
    siblings = [other for other, parent in parents.items() if parent == parents[pid]]
    return [other for other in siblings if Path(f"/proc/{other}/cmdline").read_text().startswith("ray::Worker")]


# -- a driver in a process of its own ---------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "runs", tmp_path / "ledger.txt"


def start(store: Path, ledger: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.cluster.driver", str(store), str(ledger)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=store.parent, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def lines(process: subprocess.Popen[str]) -> Iterator[dict[str, object]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)  # anything else on stdout fails here


def wait_for_steps(process: subprocess.Popen[str], count: int) -> None:
    """Return when each of the two runs has counted that far."""
    seen: Counter[object] = Counter()
    for event in lines(process):
        seen[event.get("progressed")] += 1
        if sum(number >= count for name, number in seen.items() if name) == 2:
            return
    raise AssertionError(f"the driver ended early: {process.stderr.read() if process.stderr else ''}")


def ended(process: subprocess.Popen[str]) -> tuple[list[dict[str, object]], str]:
    events = list(lines(process))
    assert process.stderr is not None
    errors = process.stderr.read()
    process.wait(60)
    return events, errors


def are_whole(store: Store, runs: list[Run]) -> None:
    first, second, last = (store.record(run.id) for run in runs)
    for record in (first, second):
        assert record is not None
        assert record.metrics["total"] == 60 * 61 // 2
        assert record.history["total"] == [step * (step + 1) / 2 for step in range(1, 61)]
    assert last is not None
    assert [path.name for path in store.work.iterdir()] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_stops_the_sweep_after_a_checkpoint_and_nothing_of_ray_is_printed(
    places: tuple[Path, Path], number: signal.Signals
) -> None:
    runs = driver.make_runs(str(places[1]))
    process = start(*places)
    wait_for_steps(process, 3)
    process.send_signal(number)
    events, errors = ended(process)
    assert process.returncode == 128 + number
    assert errors == ""
    assert {event["finished"]: event["status"] for event in events if "finished" in event} == {
        runs[0].id: "stopped",
        runs[1].id: "stopped",
    }
    assert events[-1] == {"heavy": []}
    for run in runs[:2]:
        assert list((Store(places[0]).work / run.id / "1" / "checkpoints").glob("step-*"))
    assert not list(Store(places[0]).work.glob(".tune-*"))


@pytest.mark.slow
def test_a_killed_driver_takes_its_workers_along_and_the_next_one_goes_on_at_once(places: tuple[Path, Path]) -> None:
    store, ledger = Store(places[0]), places[1]
    runs = driver.make_runs(str(ledger))
    for kill in range(2):
        process = start(*places)
        wait_for_steps(process, 4 + 3 * kill)
        process.kill()
        process.wait()
    process = start(*places)  # without waiting for the workers of the last one
    last_workers = [int(line.split()[1]) for line in ledger.read_text().splitlines()]
    deadline = time.time() + 10
    while any(is_alive(pid) for pid in last_workers) and time.time() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in last_workers if is_alive(pid)]
    events, errors = ended(process)
    assert (process.returncode, errors) == (0, "")
    assert [event["attempt"] for event in events if event.get("started") == runs[0].id] == [3]
    are_whole(store, runs)
    started_at = store.records([runs[0].id])[runs[0].id].metrics["started_at"]
    assert isinstance(started_at, int)
    assert started_at >= 7


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
