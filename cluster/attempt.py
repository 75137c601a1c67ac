"""One attempt at a run, the same on every backend: begin, drive the generator, commit or keep the failure.

Runs on the worker. Whatever happens to the trainable becomes a record here, in the one place where a failed
run turns into a result (contract C8).
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import socket
import subprocess
import time
import traceback
from collections.abc import Generator, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.base import Job, Outcome
from orchestrator.store import Attempt, Provenance, Record, Status, Store, Superseded, columns, write_atomically
from trainables.base import Context, Diverged, Metrics, Progress, Stopped

PACKAGES = ("torch", "transformers", "peft", "datasets", "deepspeed", "ray")
STOP_FILE = "stop"


@dataclass
class Log:
    """The run's log file; a line is on disk as soon as it is written."""

    path: Path

    def __call__(self, line: str) -> None:
        """Append one line, with the time."""
        with self.path.open("a") as stream:
            stream.write(f"{time.strftime('%H:%M:%S')}  {line}\n")


@dataclass
class Execution:
    """A run being executed: advance it step by step with `next`, or let `finish` do so.

    After the last step `outcome` says how the run ended.
    """

    job: Job
    cache: MutableMapping[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        self.store: Store = self.job.open_store()
        self.attempt: Attempt = self.store.begin(self.job.run.id)
        self.log = Log(self.attempt.output / "log.txt")
        self.rows: list[dict[str, float]] = self._earlier_rows()
        self.started = time.time()
        self.seconds_before = self._earlier_seconds()
        self.steps = self._generator()

    def __iter__(self) -> Execution:
        return self

    def __next__(self) -> Progress:
        """Run to the next yield; StopIteration when the run has ended and `outcome` is set."""
        try:
            progress = next(self.steps)
        except StopIteration as end:
            self._commit("done", end.value)
        except Diverged as error:
            self.log(f"diverged: {error}")
            self._commit("diverged", {}, error=str(error))
        except Stopped:
            self.outcome = Outcome(self.job.run, "stopped")
        except Exception as error:
            self._fail("oom" if _is_out_of_memory(error) else "failed", error)
        else:
            self._note(progress)
            return progress
        raise StopIteration

    def _generator(self) -> Generator[Progress, None, Metrics]:
        run, place = self.job.run, self.job.run.place
        context = Context(
            run_id=run.id,
            inputs={role: self.store.artefact(source) for role, source in run.inputs.items()},
            output=self.attempt.output,
            checkpoints=self.attempt.checkpoints,
            place=place,
            resume_from=self.attempt.resume_from,
            log=self.log,
            stop_requested=(self.attempt.folder / STOP_FILE).exists,
            cache=self.cache,
        )
        self.log(f"{run.id} ({run.name}), attempt {self.attempt.number}, on {socket.gethostname()}")
        if self.attempt.resume_from is not None:
            self.log(f"resumes from {self.attempt.resume_from.name}")
        return run.find_trainable().run(run.config, context)

    def _note(self, progress: Progress) -> None:
        """Keep the measurements, and leave word of how far the run is for `status`."""
        if progress.metrics:
            self.rows = [row for row in self.rows if row["step"] < progress.step]
            self.rows.append({"step": progress.step, **progress.metrics})
        about = {"step": progress.step, "total": progress.total, "seconds": self._seconds(), "rows": self.rows}
        write_progress(self.attempt.folder, about)

    def _earlier_rows(self) -> list[dict[str, float]]:
        """Return the step history up to the checkpoint that this attempt resumes from."""
        if self.attempt.resume_from is None:
            return []
        step = int(self.attempt.resume_from.name.removeprefix("step-"))
        rows = read_progress(self.attempt.resume_from.parents[1]).get("rows", [])
        return [row for row in rows if row["step"] <= step]

    def _earlier_seconds(self) -> float:
        if self.attempt.resume_from is None:
            return 0.0
        return float(read_progress(self.attempt.resume_from.parents[1]).get("seconds", 0.0))

    def _seconds(self) -> float:
        return self.seconds_before + time.time() - self.started

    def _record(self, status: Status, metrics: Metrics, error: str | None) -> Record:
        run = self.job.run
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
            history=columns(self.rows),
            provenance=self._provenance(),
        )

    def _provenance(self) -> Provenance:
        run = self.job.run
        return Provenance(
            started=datetime.fromtimestamp(self.started, UTC).isoformat(timespec="milliseconds"),
            finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
            seconds=round(self._seconds(), 3),
            attempt=self.attempt.number,
            host=socket.gethostname(),
            device="cuda" if run.place.gpus else "cpu",
            place=run.place.model_dump(mode="json"),
            peak_memory_gib=_peak_memory_gib(),
            source=run.find_trainable().source_digest(),
            git=git_state(),
            packages=package_versions(),
        )

    def _commit(self, status: Status, metrics: Metrics, error: str | None = None) -> None:
        try:
            record = self.store.commit(self.attempt, self._record(status, metrics, error))
        except Superseded as late:
            self.outcome = Outcome(self.job.run, "superseded", because=str(late))
        except OSError as problem:
            self._fail("failed", problem)
        else:
            self.outcome = Outcome(self.job.run, status, record, log=self.store.artefact(record.id) / "log.txt")

    def _fail(self, status: Status, error: Exception) -> None:
        self.log("".join(traceback.format_exception(error)))
        summary = str(error).strip().splitlines()
        because = f"{type(error).__name__}: {summary[0] if summary else ''}"
        record = self._record(status, {}, because)
        try:
            folder = self.store.fail(self.attempt, record)
        except Superseded as late:
            self.outcome = Outcome(self.job.run, "superseded", because=str(late))
        else:
            self.outcome = Outcome(self.job.run, status, record, log=folder / "log.txt", because=because)


def write_progress(folder: Path, about: Mapping[str, Any]) -> None:
    """Leave word of a running attempt in its folder (`progress.json`), for `status` and for a resume."""
    write_atomically(folder / "progress.json", json.dumps(about), durable=False)


def read_progress(folder: Path) -> dict[str, Any]:
    """Return what the attempt in `folder` last said of itself; empty if it has not."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return dict(json.loads((folder / "progress.json").read_text()))
    return {}


def request_stop(store: Store, run_id: str) -> None:
    """Ask every attempt at a run to leave a checkpoint and end."""
    for folder in (store.work / run_id).glob("[0-9]*"):
        (folder / STOP_FILE).touch()


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _peak_memory_gib() -> float:
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


@functools.cache
def package_versions() -> dict[str, str]:
    """Return the versions of the packages that a result may depend on, of those installed."""
    versions = {}
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
