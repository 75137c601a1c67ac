"""The Slurm script on two hosts with Ray itself: of Slurm, only `srun` and `scontrol` are played."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.hosts import lan as machines
from tests.hosts.lan import ROOT, Lan

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(machines.missing()), reason=machines.missing() or "never"),
]

SRUN = f"""#!{sys.executable}
# Tells the test what to start on the other host, and starts the same here, on the first.
import json, os, subprocess, sys
task = sys.argv[sys.argv.index("bash"):]
note = os.environ["NOTES"] + "/srun.json"
with open(note + ".tmp", "w") as stream:
    json.dump({{"task": task, "environment": dict(os.environ)}}, stream)
os.replace(note + ".tmp", note)
sys.exit(subprocess.call(task))
"""
SCONTROL = '#!/bin/sh\necho "$@" >>"$NOTES/scontrol"\n'
SWEEP = [
    "sweep",
    "smoke",
    "--axis",
    "student.rank=4",
    "--axis",
    "student.seed=1",
    "--set",
    "student.learning_rate=3e-3",
]
LONG = ["--set", "teacher.steps=400", "--place", "teacher.checkpoint_every=100000"]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Lan]:
    """Two hosts with nothing on them, and the programs of Slurm in `bin`."""
    (tmp_path / "bin").mkdir()
    for name, code in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(code)
        (tmp_path / "bin" / name).chmod(0o755)
    with machines.lan(tmp_path, with_ray=False) as made:
        yield made


def run_job(hosts: Lan, *words: str, at_the_limit: Callable[[], bool] | None = None) -> int:
    """Run the script as a job of two nodes; signal it once `at_the_limit`. Return its exit code."""
    notes = hosts.folder / "srun.json"
    notes.unlink(missing_ok=True)
    environment = {
        "PATH": f"{hosts.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NOTES": str(hosts.folder),
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_ON_NODE": "1",
        "SWEEP_LOCAL_FOLDER": str(hosts.hosts[0].folder),
    }
    first, second = hosts.hosts
    log, others = hosts.folder / "job.log", hosts.folder / "other.log"
    script = ROOT / "cluster" / "launch" / "slurm.sh"
    pid_file = hosts.folder / "job.pid"
    start = ["bash", "-c", 'echo $$ >"$0"; exec bash "$@"', str(pid_file), str(script), *words]
    job = first.start(*start, log=log, **environment)
    until = time.monotonic() + 60
    while not notes.exists():
        assert job.poll() is None, log.read_text()
        assert time.monotonic() < until
        time.sleep(0.1)
    told = json.loads(notes.read_text())
    environment = {**told["environment"], "RAY_TMPDIR": str(second.folder / "ray-12")}
    other = second.start(*told["task"], log=others, **environment)
    try:
        while at_the_limit is not None and not at_the_limit():
            assert job.poll() is None, "the job has ended: its log and the other node's are below"
            time.sleep(0.05)
        if at_the_limit is not None:
            assert first.run("kill", "-USR1", pid_file.read_text().strip()).returncode == 0
        return job.wait(timeout=500)
    finally:
        for process in (job, other):
            process.kill()
            process.wait()
        for name, path in (("the job", log), ("the other node", others)):
            print(f"--- {name}\n{path.read_text()[-3000:] if path.exists() else ''}")


def teacher_step(store: Path) -> int:
    steps = [-1]
    for attempt in machines.attempts(store, "teacher"):
        with suppress(FileNotFoundError, ValueError):
            steps.append(json.loads((attempt / "progress.json").read_text())["step"])
    return max(steps)


def test_a_job_that_meets_its_time_limit_goes_back_to_the_queue_and_then_ends_well_on_two_nodes(hosts: Lan) -> None:
    store, queue = hosts.folder / "my runs", hosts.folder / "scontrol"
    words = [*SWEEP, *LONG, "--store", str(store)]
    assert run_job(hosts, *words, at_the_limit=lambda: teacher_step(store) >= 35) == 128 + signal.SIGUSR1
    assert queue.read_text() == "requeue 12\n"
    left = [int(path.name.removeprefix("step-")) for path in store.glob("work/teacher-*/1/checkpoints/step-*")]
    assert max(left) >= 35

    for host in hosts.hosts:  # the job starts again, on nodes where nothing runs
        host.crash()
    hosts.boot()
    assert run_job(hosts, *words) == 0
    assert queue.read_text() == "requeue 12\n"
    records = [json.loads(path.read_text()) for path in store.glob("artefacts/*/record.json")]
    assert {record["provenance"]["host"] for record in records} == {"host1", "host2"}
    log = next(store.glob("artefacts/teacher-*/log.txt")).read_text()
    assert f"resumes from step-{max(left)}" in log
