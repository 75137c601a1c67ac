"""One attempt at a run, the same on every backend: begin, drive the generator, commit or keep the failure.

`Steps` drives a generator and says how it ended; every worker of a gang has one. `Execution` is a whole attempt in one
process; `cluster.gang.Gang` is one in several.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
from collections.abc import Callable, Generator, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.base import Job, Outcome
from cluster.ending import PRUNE_FILE, Ending, conclude, ending_of
from cluster.notes import Log, Notes
from orchestrator.store import ASIDE, Attempt, Store
from trainables.base import Context, Metrics, Place, Progress

STOP_FILE = "stop"


class InputDamaged(Exception):
    """What a run was about to read has changed since it was made: the next command makes it again, and goes on."""


class Steps(Iterator[Progress]):
    """The generator of a run, advanced to its next yield by `next`; when it has ended `ending` says how.

    What `note` raises ends the run as if the generator had raised it.
    """

    def __init__(self, job: Job, context: Context, note: Callable[[Progress], None]) -> None:
        """Make the generator; nothing of it is executed yet."""
        limit_threads(job.run.place)
        _reset_peak_memory()
        self.generator = _execute(job, context)
        self.note = note
        self.ending: Ending | None = None

    def __next__(self) -> Progress:
        """Run to the next yield; StopIteration once the generator has ended."""
        if self.ending is not None:
            raise StopIteration
        try:
            progress = next(self.generator)
            self.note(progress)
        except StopIteration as end:
            self._end(Ending("done", end.value or {}))
        except Exception as error:
            self._end(ending_of(error))
            self.close()
        else:
            return progress
        raise StopIteration

    def close(self) -> None:
        """Abandon the run where it is; its checkpoints stay for the next attempt."""
        self.generator.close()

    def _end(self, ending: Ending) -> None:
        self.ending = dataclasses.replace(ending, peak_memory_gib=_peak_memory_gib())


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
        self.attempt: Attempt = begin(self.job)
        self.notes = Notes.begin(self.attempt)
        self.log = Log(self.attempt.output / "log.txt")
        context = make_context(self.job, self.attempt, self.log, self.halt)
        context.cache = self.cache
        self.steps = Steps(self.job, context, self.notes.note)

    def __iter__(self) -> Execution:
        return self

    def __next__(self) -> Progress:
        """Run to the next yield; StopIteration when the run has ended and `outcome` is set."""
        for progress in self.steps:
            return progress
        if self.outcome is None:
            assert self.steps.ending is not None
            self.outcome = conclude(self.job, self.attempt, self.steps.ending, self.notes)
        raise StopIteration

    def close(self) -> None:
        """Abandon the run where it is; its checkpoints stay for the next attempt."""
        self.steps.close()


def begin(job: Job) -> Attempt:
    """Open the next attempt at a run; its log says where it is and what it resumes from."""
    attempt, run = job.open_store().begin(job.run.id), job.run
    log = Log(attempt.output / "log.txt")
    log(f"{run.id} ({run.name}), attempt {attempt.number}, on {socket.gethostname()}")
    if attempt.resume_from is not None:
        log(f"resumes from {attempt.resume_from.name}")
    return attempt


def make_context(job: Job, attempt: Attempt, log: Callable[[str], None], halt: Path | None = None) -> Context:
    """Return what the run's generator is given in this attempt."""
    store: Store = job.open_store()
    return Context(
        run_id=job.run.id,
        inputs={role: store.artefact(source) for role, source in job.run.inputs.items()},
        output=attempt.output,
        checkpoints=attempt.checkpoints,
        place=job.run.place,
        resume_from=attempt.resume_from,
        log=log,
        stop_requested=lambda: stop_requested(attempt, halt),
    )


def _execute(job: Job, context: Context) -> Generator[Progress, None, Metrics]:
    """Run the trainable, unless one of its inputs has changed since it was committed."""
    for source in dict.fromkeys(job.run.inputs.values()):
        for name, what in job.open_store().altered(source).items():
            if name not in ASIDE:
                raise InputDamaged(f"its input {source}/{name} {what}; the same command makes it again")
    return (yield from job.run.find_trainable().run(job.run.config, context))


def stop_requested(attempt: Attempt, halt: Path | None) -> bool:
    """Say whether somebody has asked this attempt, or everything, to stop."""
    asked = any((attempt.folder / name).exists() for name in (STOP_FILE, PRUNE_FILE))
    return asked or (halt is not None and halt.exists())


def request_stop(store: Store, run_id: str) -> None:
    """Ask every attempt at a run to leave a checkpoint and end."""
    for folder in (store.work / run_id).glob("[0-9]*"):
        (folder / STOP_FILE).touch()


def request_prune(store: Store, run_id: str, because: str) -> None:
    """Ask every attempt at a run to leave a checkpoint and end as `pruned`; it may have ended by then."""
    for folder in (store.work / run_id).glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError):
            (folder / PRUNE_FILE).write_text(because)


def limit_threads(place: Place) -> None:
    """Let numerical libraries use as many threads as the run has CPUs: more make every step several times slower."""
    threads = max(1, int(place.cpus))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


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
