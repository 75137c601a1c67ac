"""One attempt at a run, the same on every backend: begin, drive the generator, commit or keep the failure.

Runs on the worker. Whatever happens to the trainable becomes a record here, in the one place where a failed
run turns into a result (contract C8). What happens to the store does not: an error in writing to it is raised.

An attempt leaves word in its folder as it goes: `rows.jsonl`, what was measured, one line a step, so that a resumed
run keeps its whole history; `progress.json`, how far it is, for `status`. A row is on disk before the generator is
advanced again: a trainable that yields step N before it writes checkpoint `step-N` loses no row by a kill.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Generator, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from cluster.base import Job, Outcome
from orchestrator.plan import Run
from orchestrator.store import Attempt, Provenance, Record, Status, Store, Superseded, columns, write_atomically
from trainables.base import Context, Diverged, Metrics, Place, Progress, Stopped

PACKAGES = ("torch", "transformers", "peft", "datasets", "deepspeed", "ray")
STOP_FILE = "stop"
PROGRESS_EVERY_S = 0.2
Row: TypeAlias = dict[str, float]


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
    """A run being executed: advance it step by step with `next`; after the last step `outcome` says how it ended.

    `cache` is kept by the caller from run to run; the file `halt`, once it exists, stops the run like its own stop
    file does. Raises StoreError or OSError if the store cannot be written.
    """

    job: Job
    cache: MutableMapping[str, Any] = field(default_factory=dict)
    halt: Path | None = None
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        limit_threads(self.job.run.place)
        _reset_peak_memory()
        self.store: Store = self.job.open_store()
        self.attempt: Attempt = self.store.begin(self.job.run.id)
        self.log = Log(self.attempt.output / "log.txt")
        self.started = time.time()
        self.rows, self.seconds_before = self._earlier()
        self.noted_s = 0.0
        self.steps = self._generator()

    def __iter__(self) -> Execution:
        return self

    def __next__(self) -> Progress:
        """Run to the next yield; StopIteration when the run has ended and `outcome` is set."""
        try:
            progress = next(self.steps)
            self._note(progress)
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
            return progress
        raise StopIteration

    def close(self) -> None:
        """Abandon the run where it is; its checkpoints stay for the next attempt."""
        self.steps.close()

    def stop_requested(self) -> bool:
        """Say whether somebody has asked this attempt, or everything, to stop."""
        return (self.attempt.folder / STOP_FILE).exists() or (self.halt is not None and self.halt.exists())

    def _generator(self) -> Generator[Progress, None, Metrics]:
        run = self.job.run
        trainable = run.find_trainable()
        context = Context(
            run_id=run.id,
            inputs={role: self.store.artefact(source) for role, source in run.inputs.items()},
            output=self.attempt.output,
            checkpoints=self.attempt.checkpoints,
            place=run.place,
            resume_from=self.attempt.resume_from,
            log=self.log,
            stop_requested=self.stop_requested,
            cache=self.cache,
        )
        self.log(f"{run.id} ({run.name}), attempt {self.attempt.number}, on {socket.gethostname()}")
        if self.attempt.resume_from is not None:
            self.log(f"resumes from {self.attempt.resume_from.name}")
        return trainable.run(run.config, context)

    def _earlier(self) -> tuple[list[Row], float]:
        """Return the step history up to the checkpoint that this attempt resumes from, and the seconds it took."""
        if self.attempt.resume_from is None:
            return [], 0.0
        step = int(self.attempt.resume_from.name.removeprefix("step-"))
        about = read_progress(self.attempt.resume_from.parents[1])
        rows = [row for row in about.get("rows", []) if row["step"] <= step]
        append_rows(self.attempt.folder, rows)
        return rows, float(about.get("seconds", 0.0))

    def _note(self, progress: Progress) -> None:
        """Keep the measurements, and leave word of how far the run is."""
        if progress.metrics:
            row = {"step": progress.step, **progress.metrics}
            append_rows(self.attempt.folder, [row])
            merge_row(self.rows, row)
        if time.time() - self.noted_s >= PROGRESS_EVERY_S:
            self.noted_s = time.time()
            about = {"step": progress.step, "total": progress.total, "seconds": self._seconds()}
            write_progress(self.attempt.folder, about)

    def _seconds(self) -> float:
        return self.seconds_before + time.time() - self.started

    def _record(self, status: Status, metrics: Metrics, error: str | None) -> Record:
        run = self.job.run
        provenance = make_provenance(run, self.attempt.number, self.started, self._seconds(), socket.gethostname())
        provenance = provenance.model_copy(update={"peak_memory_gib": _peak_memory_gib()})
        return make_record(run, status, metrics, error, self.rows, provenance)

    def _commit(self, status: Status, metrics: Metrics, error: str | None = None) -> None:
        try:
            record = self.store.commit(self.attempt, self._record(status, metrics, error))
        except Superseded as late:
            self.outcome = Outcome(self.job.run, "superseded", because=str(late))
        except Exception as problem:
            self._fail("failed", problem)
        else:
            log = self.store.artefact(record.id) / "log.txt"
            self.outcome = Outcome(self.job.run, status, record, log=log, because=error or "")

    def _fail(self, status: Status, error: Exception) -> None:
        self.close()
        if self.store.is_finished(self.job.run.id):
            self.outcome = Outcome(self.job.run, "superseded", because="finished by another attempt")
            return
        self.log("".join(traceback.format_exception(error)))
        summary = str(error).strip().splitlines()
        because = f"{type(error).__name__}: {summary[0] if summary else ''}"
        self.outcome = keep_failure(self.job, self.attempt, self._record(status, {}, because))


def keep_failure(job: Job, attempt: Attempt, record: Record) -> Outcome:
    """Keep what a failed attempt left and return its outcome; `superseded` if it has a successor."""
    try:
        folder = job.open_store().fail(attempt, record)
    except Superseded as late:
        return Outcome(job.run, "superseded", because=str(late))
    log = folder / "log.txt"
    return Outcome(job.run, record.status, record, log=log if log.is_file() else None, because=record.error or "")


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
    return keep_failure(job, attempt, make_record(run, "killed", {}, because, about.get("rows", []), provenance))


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
    device = run.place.device if run.place.device != "auto" else ("cuda" if run.place.gpus else "cpu")
    return Provenance(
        started=datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds"),
        finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
        seconds=round(seconds, 3),
        attempt=attempt,
        host=host,
        device=device,
        place=run.place.model_dump(mode="json"),
        source=run.find_trainable().source_digest(),
        git=git_state(),
        packages=package_versions(),
    )


def limit_threads(place: Place) -> None:
    """Let numerical libraries use as many threads as the run has CPUs: more make every step several times slower."""
    threads = max(1, int(place.cpus))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def merge_row(rows: list[Row], row: Row) -> None:
    """Add what was measured at a step; later steps, of a run that went back to a checkpoint, are forgotten."""
    while rows and rows[-1]["step"] > row["step"]:
        rows.pop()
    if rows and rows[-1]["step"] == row["step"]:
        rows[-1].update(row)
    else:
        rows.append(row)


def append_rows(folder: Path, rows: Iterable[Row]) -> None:
    """Add rows to what the attempt in `folder` has measured."""
    with (folder / "rows.jsonl").open("a") as stream:
        stream.writelines(f"{json.dumps(row)}\n" for row in rows)


def write_progress(folder: Path, about: Mapping[str, Any]) -> None:
    """Leave word of how far the attempt in `folder` is, for `status` and for a resume."""
    write_atomically(folder / "progress.json", json.dumps(about), durable=False)


def read_progress(folder: Path) -> dict[str, Any]:
    """Return what the attempt in `folder` last said of itself; empty if it has said nothing.

    step, total, seconds: how far it was, up to a fraction of a second ago; rows: all that it measured, by step.
    """
    about: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):
        about = dict(json.loads((folder / "progress.json").read_text()))
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        rows: list[Row] = []
        for line in (folder / "rows.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line that a kill cut short
                merge_row(rows, json.loads(line))
        about["rows"] = rows
    return about


def request_stop(store: Store, run_id: str) -> None:
    """Ask every attempt at a run to leave a checkpoint and end."""
    for folder in (store.work / run_id).glob("[0-9]*"):
        (folder / STOP_FILE).touch()


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _reset_peak_memory() -> None:
    """Start measuring the peak anew: a warm worker has executed other runs before this one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_gib() -> float | None:
    """Return this process' largest resident memory since the reset; None where the kernel does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**20, 3)
    return None


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
