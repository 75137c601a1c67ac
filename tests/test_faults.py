"""Kill the driver for real, run the same command again, and compare with a sweep that nobody disturbed (C2, C3, C7)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.compare import faults, record_times, table
from tests.chaos.processes import alive, family
from tests.disks import fill, needs_mounts, small_disk

ROOT = Path(__file__).parents[1]
SWEEP = ["sweep", "smoke", "--axis", "student.seed=1", "--set", "teacher.steps=300", "--set", "student.steps=40"]
SWEEP += ["--place", "teacher.checkpoint_every=10", "--place", "student.checkpoint_every=5"]
PATIENCE_S = 1500
"""Nothing is judged by how long it takes: this only ends a test that hangs."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE_S)]


def start(store, *more):
    command = [sys.executable, "-m", "orchestrator", *SWEEP, "--store", str(store), *more]
    with (store.parent / f"{store.name}.log").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def sweep(store, *more):
    process = start(store, *more)
    return process.wait(timeout=PATIENCE_S)


def wait_for(process, condition):
    """Wait until the sweep is where we want it; a sweep that ends before is a failed test."""
    begun = time.monotonic()
    while not condition():
        assert process.poll() is None, "the sweep ended before it could be disturbed"
        assert time.monotonic() - begun < PATIENCE_S, "the sweep never got there"
        time.sleep(0.01)


def step_of(store, stage):
    """Return the furthest step of any unfinished run of a stage; -1 where none has begun."""
    steps = [-1]
    for path in store.glob(f"work/{stage}-*/*/progress.json"):
        try:
            steps.append(json.loads(path.read_text())["step"])
        except (FileNotFoundError, ValueError):
            continue
    return max(steps)


def finished(store, stage):
    return len(list(store.glob(f"artefacts/{stage}-*/record.json")))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = tmp_path_factory.mktemp("undisturbed") / "runs"
    assert sweep(store) == 0
    return store


MOMENTS = {
    "in the teacher": lambda store: step_of(store, "teacher") >= 35,
    "in the export": lambda store: finished(store, "teacher") == 1 and step_of(store, "svd_export") >= 0,
    "among the students": lambda store: finished(store, "student") >= 1 and step_of(store, "student") >= 7,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_sweep_killed_at_any_moment_ends_with_the_results_of_an_undisturbed_one(tmp_path, undisturbed, moment):
    store = tmp_path / "runs"
    process = start(store)
    wait_for(process, lambda: MOMENTS[moment](store))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = record_times(store)
    assert sweep(store) == 0
    assert faults(store, undisturbed, before) == []


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 1), (signal.SIGUSR1, 138, 1), (signal.SIGUSR1, 138, 2)],
)
def test_a_signal_leaves_a_checkpoint_and_the_next_command_goes_on_from_it(
    tmp_path, undisturbed, number, code, workers
):
    store = tmp_path / "runs"
    more = ["--until", "teacher", "--place", f"teacher.workers={workers}"]
    process = start(store, *more, "--place", "teacher.checkpoint_every=100000")
    wait_for(process, lambda: step_of(store, "teacher") >= 15)
    os.kill(process.pid, number)
    assert process.wait(timeout=PATIENCE_S) == code
    steps = [int(path.name.removeprefix("step-")) for path in store.glob("work/teacher-*/1/checkpoints/step-*")]
    assert max(steps, default=0) >= 15
    assert sweep(store, *more) == 0
    log = next(store.glob("artefacts/teacher-*/log.txt")).read_text()
    assert f"resumes from step-{max(steps)}" in log
    ours, theirs = teacher(store), teacher(undisturbed)
    assert ours["id"] == theirs["id"]
    assert ours["history"]["step"] == theirs["history"]["step"]
    assert ours["history"]["loss"] == (theirs["history"]["loss"] if workers == 1 else approx(theirs["history"]["loss"]))


def teacher(store):
    return json.loads(next(store.glob("artefacts/teacher-*/record.json")).read_text())


def approx(losses):
    """Return what agrees with these losses but for the order in which workers add up: 1e-4, as gangs are tested."""
    return [loss if loss is None else pytest.approx(loss, rel=1e-4) for loss in losses]


@needs_mounts
def test_a_full_disk_stops_the_sweep_in_a_line_and_the_same_command_goes_on_when_there_is_room(tmp_path, undisturbed):
    with small_disk(tmp_path / "disk", "1g") as disk:
        store = disk / "runs"
        process = start(store)
        wait_for(process, lambda: step_of(store, "teacher") >= 15)
        filler = fill(disk)
        assert process.wait(timeout=PATIENCE_S) == 2
        filler.unlink()
        said = (disk / "runs.log").read_text()
        assert sweep(store) == 0
        assert faults(store, undisturbed, {}) == []
        assert "resumes from step-" in next(store.glob("artefacts/teacher-*/log.txt")).read_text()
    assert "Traceback" not in said


def test_a_worker_that_rays_memory_monitor_ends_is_given_up_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")  # every machine is over it
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    store = tmp_path / "runs"
    assert sweep(store, "--until", "base_model") == 1
    record = json.loads(next(store.glob("failures/base_model-*/*/record.json")).read_text())
    assert record["status"] == "killed"
    assert "out of memory, ended by Ray's monitor when the node (IP" in record["error"]
    assert "--place STAGE.memory_gib=N" in record["error"]


def test_a_killed_raylet_ends_the_sweep_in_a_line_and_a_killed_driver_leaves_no_session_for_long(tmp_path, undisturbed):
    store = tmp_path / "runs"
    process = start(store)
    wait_for(process, lambda: step_of(store, "teacher") >= 15)
    (raylet,) = [one for one in family(process.pid) if one.kind == "raylet"]
    os.kill(raylet.pid, signal.SIGKILL)
    assert process.wait(timeout=PATIENCE_S) == 2
    assert "(raylet) is gone" in (tmp_path / "runs.log").read_text().splitlines()[-1]
    second = start(store)
    wait_for(second, lambda: finished(store, "teacher") == 1)
    members = set(family(second.pid))
    second.kill()
    second.wait()
    while alive(members):  # or the session is left to the command after the next
        time.sleep(0.1)
    assert sweep(store) == 0
    assert faults(store, undisturbed, {}) == []
    assert [path for pid in (process.pid, second.pid) for path in Path("/tmp/ray").glob(f"session_*_{pid}")] == []
