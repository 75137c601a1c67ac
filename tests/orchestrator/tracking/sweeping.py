"""A smoke sweep in its own process, with a tracking server that may be killed in the middle of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store import Store
from tests.orchestrator.tracking.looking import wait_until
from tests.orchestrator.tracking.server import Server

AWAY_S = 30.0
STEPS = 400
"""Of a student: the eight of them take a minute or so on one free core, so that the middle is long enough."""


@dataclass(frozen=True)
class Swept:
    """How a sweep went: wall time and the CPU time of its process in seconds, and what it said on stderr."""

    code: int
    seconds: float
    cpu_s: float
    said: str
    was_in_the_middle: bool

    @property
    def lines(self) -> list[str]:
        """What it said of MLflow."""
        return [line for line in self.said.splitlines() if "MLflow" in line]


def sweep(folder: Path, uri: str, *more: str, disturb: Server | None = None, steps: int = STEPS) -> Swept:
    """Run the smoke study in `folder`; with `disturb` that server is killed after the first student, for AWAY_S."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["sweep", "smoke", "--local", "--set", f"student.steps={steps}", *more]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    begun = time.monotonic()
    with (folder / "said.log").open("w") as log:
        command = [sys.executable, "-m", "orchestrator", *words]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    was_in_the_middle = True
    try:
        if disturb is not None:
            wait_until(lambda: students(Store(folder / "runs")) > 0, 600)
            disturb.kill()
            time.sleep(AWAY_S)
            was_in_the_middle = process.poll() is None
            disturb.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
    said = re.sub("\x1b.*?m", "", (folder / "said.log").read_text())
    seconds = time.monotonic() - begun
    return Swept(process.returncode, seconds, usage.ru_utime + usage.ru_stime, said, was_in_the_middle)


def students(store: Store) -> int:
    """Return how many students are finished."""
    return sum(run_id.startswith("student-") for run_id in store.ids())
