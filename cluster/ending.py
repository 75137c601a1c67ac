"""How a run's generator ended, and what that makes of the run: a record in the store.

Whatever happens to a trainable becomes a record here, in the one place where a failed run turns into a result
(contract C8). What happens to the store does not: an error in writing to it is raised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cluster.base import Job, Outcome
from cluster.notes import Log, Notes, Row, read_progress
from orchestrator.durable import is_full, no_space
from orchestrator.plan import Run
from orchestrator.record import Provenance, Record, Status, columns
from orchestrator.store import Attempt, Superseded
from trainables.base import Diverged, Metrics, Stopped
from trainables.training.memory import is_out_of_memory

PACKAGES = ("torch", "transformers", "peft", "datasets", "deepspeed", "ray")

PRUNE_FILE = "prune"
"""In an attempt's folder: its search has given it up, and why."""

ECHO = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|socket|remote (process|peer)|timed? ?out|store->get", re.I
)
"""What torch.distributed says in one worker when it has lost another."""


@dataclass(frozen=True)
class Ending:
    """How one worker's generator ended, in a form that travels.

    error         the exception in a line; `trace` its traceback
    is_echo       the error says only that another worker has gone
    is_full       the error says that the disk is full, or the quota: no fault of the run's
    peak_memory   of the process, GiB
    """

    status: Literal["done", "diverged", "pruned", "stopped", "oom", "failed", "lost"]
    metrics: Metrics = field(default_factory=dict)
    error: str = ""
    trace: str = ""
    is_echo: bool = False
    is_full: bool = False
    peak_memory_gib: float | None = None


def ending_of(error: Exception) -> Ending:
    """Return how a generator ended that raised this."""
    if isinstance(error, Stopped):
        return Ending("stopped")
    if isinstance(error, Diverged):
        return Ending("diverged", error=str(error))
    summary = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {summary[0] if summary else ''}"
    trace = "".join(traceback.format_exception(error))
    status: Literal["oom", "failed"] = "oom" if is_out_of_memory(error) else "failed"
    return Ending(status, error=line, trace=trace, is_echo=_is_echo(error), is_full=is_full(error))


def conclude(job: Job, attempt: Attempt, ending: Ending, notes: Notes) -> Outcome:
    """Commit the attempt, or keep what it left; nothing of it may run any more. Raises if the store fails."""
    ending = _pruned(attempt, ending)
    if ending.status in ("stopped", "lost"):
        return Outcome(job.run, ending.status, because=ending.error)
    try:
        if ending.status in ("done", "diverged"):
            return _committed(job, attempt, ending, notes)
    except Superseded as late:
        return Outcome(job.run, "superseded", because=str(late))
    except Exception as problem:
        ending = ending_of(problem)
    try:
        job.open_store().refuse_superseded(attempt)
    except Superseded as late:
        return Outcome(job.run, "superseded", because=str(late))
    if ending.is_full:
        raise no_space(job.store)
    Log(attempt.output / "log.txt")(ending.trace or f"{ending.status}: {ending.error}")
    return _keep_failure(job, attempt, _record(job, attempt, ending, notes))


def _pruned(attempt: Attempt, ending: Ending) -> Ending:
    """Return how an attempt ended that was stopped because its search has given it up."""
    if ending.status != "stopped":
        return ending
    with contextlib.suppress(FileNotFoundError):
        because = (attempt.folder / PRUNE_FILE).read_text()
        return dataclasses.replace(ending, status="pruned", error=because)
    return ending


def keep_killed(job: Job, because: str, host: str = "") -> Outcome:
    """Turn a run whose worker is gone for good into a failure, from the driver; return its outcome."""
    store, run = job.open_store(), job.run
    numbers = [int(path.name) for path in (store.work / run.id).glob("[0-9]*")]
    folder = store.work / run.id / str(max(numbers, default=0))
    attempt = Attempt(run.id, max(numbers), folder, None) if numbers else store.begin(run.id)
    about = read_progress(attempt.folder)
    with contextlib.suppress(OSError):
        Log(attempt.output / "log.txt")(f"killed: {because}")
    seconds = float(about.get("seconds", 0.0))
    provenance = make_provenance(run, attempt.number, time.time() - seconds, seconds, host)
    return _keep_failure(job, attempt, make_record(run, "killed", {}, because, about.get("rows", []), provenance))


def _committed(job: Job, attempt: Attempt, ending: Ending, notes: Notes) -> Outcome:
    if ending.status == "diverged":
        Log(attempt.output / "log.txt")(f"diverged: {ending.error}")
    store = job.open_store()
    record = store.commit(attempt, _record(job, attempt, ending, notes))
    return Outcome(job.run, record.status, record, log=store.artefact(record.id) / "log.txt", because=ending.error)


def _keep_failure(job: Job, attempt: Attempt, record: Record) -> Outcome:
    """Keep what a failed attempt left and return its outcome; `superseded` if it has a successor."""
    with contextlib.suppress(OSError):
        for log in attempt.folder.glob("log-rank-*.txt"):
            (attempt.output / log.name).write_bytes(log.read_bytes())
    try:
        folder = job.open_store().fail(attempt, record)
    except Superseded as late:
        return Outcome(job.run, "superseded", because=str(late))
    log = folder / "log.txt"
    return Outcome(job.run, record.status, record, log=log if log.is_file() else None, because=record.error or "")


def _record(job: Job, attempt: Attempt, ending: Ending, notes: Notes) -> Record:
    assert ending.status != "stopped"
    assert ending.status != "lost"
    provenance = make_provenance(job.run, attempt.number, notes.started, notes.seconds(), socket.gethostname())
    provenance = provenance.model_copy(update={"peak_memory_gib": ending.peak_memory_gib})
    return make_record(job.run, ending.status, ending.metrics, ending.error or None, notes.rows, provenance)


def make_record(
    run: Run, status: Status, metrics: Metrics, error: str | None, rows: Iterable[Row], provenance: Provenance
) -> Record:
    """Return the record of a run that ended with `status`."""
    return Record(
        id=run.id,
        name=run.name,
        stage=run.stage,
        trainable=run.trainable,
        version=run.version,
        config=run.config.identity(),
        settings=run.config.model_dump(mode="json"),
        inputs=dict(run.inputs),
        labels=dict(run.labels),
        status=status,
        error=error,
        metrics=dict(metrics),
        history=columns(rows),
        provenance=provenance,
    )


def make_provenance(run: Run, attempt: int, started: float, seconds: float, host: str) -> Provenance:
    """Return where and how a run executed; `started` in seconds since the epoch."""
    return Provenance(
        started=datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds"),
        finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
        seconds=round(seconds, 3),
        attempt=attempt,
        host=host,
        device=run.place.kind,
        place=run.place.model_dump(mode="json"),
        source=run.find_trainable().source_digest(run.config),
        git=git_state(),
        packages=package_versions(),
    )


def _is_echo(error: Exception) -> bool:
    """Say whether torch.distributed, or the autograd engine that called it, lost the other end."""
    is_torch = type(error).__name__ in ("RuntimeError", "DistNetworkError", "DistBackendError", "DistStoreError")
    return is_torch and ECHO.search(str(error)) is not None


@functools.cache
def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result may depend on, of those installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def git_state() -> str:
    """Return the commit of this checkout, with + if it has changes; empty where there is none."""
    here = Path(__file__).parent
    command = ["git", "-C", os.fspath(here), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return ""
