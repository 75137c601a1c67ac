"""Kill the driver for real, run the same command again, and compare with a sweep that nobody disturbed (C2, C3, C7)."""

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def table(store):
    """Return results.csv without the columns of time and memory."""
    from orchestrator.results import VOLATILE_COLUMNS

    with (store / "reports" / "smoke" / "results.csv").open() as stream:
        return [
            {name: value for name, value in row.items() if name not in VOLATILE_COLUMNS}
            for row in csv.DictReader(stream)
        ]


def mlflow_runs(store):
    """Return the MLflow status of every run, by our run id; fails on a run id that is there twice."""
    with sqlite3.connect(store / "mlflow.db") as database:
        rows = database.execute(
            "select t.value, r.status from runs r join tags t on t.run_uuid = r.run_uuid where t.key = 'run_id'"
        ).fetchall()
        running = database.execute("select count(*) from runs where status = 'RUNNING'").fetchone()[0]
    assert running == 0
    assert len({run_id for run_id, _ in rows}) == len(rows)
    return dict(rows)


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
    before = {path.parent.name: path.stat().st_mtime_ns for path in store.glob("artefacts/*/record.json")}
    assert sweep(store) == 0
    after = {path.parent.name: path.stat().st_mtime_ns for path in store.glob("artefacts/*/record.json")}
    assert before.items() <= after.items(), "a finished run was executed again"
    assert table(store) == table(undisturbed)
    assert set(mlflow_runs(store)) == set(mlflow_runs(undisturbed)) == set(after)
    assert list(store.glob("work/*")) == []


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
