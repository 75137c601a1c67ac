"""MLflow's server on a database of our own: started, waited for, stopped; and what there is to see on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.tracking.client import OURS, reading_client
from orchestrator.tracking.saved_views import page

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # of language-model judges; two more processes
}
READY_S, STOP_S = 600.0, 10.0


@dataclass(frozen=True)
class Tracked:
    """A study at one scale that MLflow knows; `page` is its address, relative to the server's."""

    study: str
    scale: str
    page: str


def is_remote(uri: str) -> bool:
    """Say whether tracking goes to a server, and not to a database of our own."""
    return bool(uri) and not uri.startswith(OURS)


def tracked(database: Path) -> list[Tracked]:
    """Return the studies in a database, in the order of their making."""
    client = reading_client(f"{OURS}{database}")
    experiments = sorted(client.search_experiments(), key=lambda found: int(found.experiment_id))
    found = []
    for experiment in experiments:
        runs = client.search_runs([experiment.experiment_id], "tags.role = 'study'", order_by=["start_time"])
        about = dict.fromkeys((run.data.tags["study"], run.data.tags["scale"]) for run in runs)
        found += [Tracked(study, scale, page(experiment.experiment_id)) for study, scale in about]
    return found


def start(database: Path, host: str, port: int) -> subprocess.Popen[bytes]:
    """Start the server as a process group of its own."""
    command = [
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"{OURS}{database}",
        "--host",
        host,
        "--port",
        str(port),
    ]
    options = ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    return subprocess.Popen(
        [sys.executable, *command, *options],
        env={**os.environ, **QUIET},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until_ready(process: subprocess.Popen[bytes], home: str, is_stopped: Callable[[], bool]) -> bool:
    """Wait until the server answers; False if it ended before, or was told to."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None and not is_stopped():
        try:
            with urllib.request.urlopen(f"{home}/health", timeout=2) as answer:  # noqa: S310 (our own server)
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return
