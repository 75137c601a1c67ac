"""Drives one trainable in several processes, as a backend does: the same context in each, but for its member.

The processes are fresh ones, forked from a server that has imported the libraries, so that a gang starts in a tenth of
a second. A gang ends as a whole: when one of its workers fails the others are terminated.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cluster.share import free_port
from tests.trainables.driver import Driven, execute
from trainables.base import Member, Place
from trainables.training.memory import asks_for_restart, find_word

PRELOAD = [
    "tests.trainables.gang",
    "peft",
    "transformers",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # compiles at import, which takes seconds
    "deepspeed.runtime.zero.stage3",
    "trainables.training.zero_engine",
]


@dataclass(frozen=True)
class Job:
    """A run of a gang. `stops` says after how many yields a rank is asked to stop; `prepare` runs in each worker."""

    trainable: str
    config: Mapping[str, Any]
    folder: Path
    inputs: Mapping[str, Path]
    place: Place
    resume_from: Path | None = None
    stops: Mapping[int, int] = field(default_factory=dict)
    prepare: Callable[[int], None] | None = None

    @property
    def checkpoints(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.checkpoints")


@dataclass
class Worked:
    """What one worker gave: its run as far as it came, what ended it, and all that it wrote to the terminal."""

    driven: Driven
    error: Exception | None = None
    trace: str = ""
    printed: str = ""


def drive_gang(
    trainable: str,
    config: Mapping[str, Any],
    folder: Path,
    *,
    inputs: Mapping[str, Path],
    place: Place,
    **options: Any,
) -> Driven:
    """Run a trainable to its end in `place.workers` processes; return what rank 0 gave; raise what ended the gang."""
    workers = work(Job(trainable, config, folder, inputs, place, **options))
    for worker in workers:
        if worker.error is not None:
            raise worker.error from RuntimeError(worker.trace)
    return workers[0].driven


def work(job: Job) -> list[Worked]:
    """Run a job in its processes and return what each gave; starts again where a run asks for a smaller micro-batch."""
    before = find_word(job.checkpoints)
    workers = _start(job)
    failed = [worker.error for worker in workers if type(worker.error).__name__ == "OutOfMemoryError"]
    if failed and asks_for_restart(job.checkpoints, before):
        steps = sorted(job.checkpoints.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
        return work(replace(job, resume_from=steps[-1] if steps else job.resume_from))
    return workers


def _start(job: Job) -> list[Worked]:
    context, port = _server(), free_port("127.0.0.1")
    size = job.place.workers
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    processes = [
        context.Process(target=_work, args=(job, _member(rank, size, port, job.place), pipe[1]), daemon=True)
        for rank, pipe in enumerate(pipes)
    ]
    for process, pipe in zip(processes, pipes, strict=True):
        process.start()
        pipe[1].close()
    found = _collect({pipe[0]: rank for rank, pipe in enumerate(pipes)})
    for process in processes:
        if len(found) < size:
            process.terminate()
        process.join()
    return [found.get(rank, Worked(Driven())) for rank in range(size)]


def _member(rank: int, size: int, port: int, place: Place) -> Member | None:
    return Member(rank, size, "127.0.0.1", port) if size > 1 else None


def _collect(open_pipes: dict[Connection, int]) -> dict[int, Worked]:
    """Return what each rank sent, up to and including the first one that failed."""
    found: dict[int, Worked] = {}
    while open_pipes:
        for pipe in wait(list(open_pipes)):
            assert isinstance(pipe, Connection)
            rank = open_pipes.pop(pipe)
            try:
                found[rank] = pipe.recv()
            except EOFError:
                found[rank] = Worked(Driven(), RuntimeError(f"worker {rank} died"))
            if found[rank].error is not None and not _is_agreed(found[rank].error):
                return found
    return found


def _is_agreed(error: Exception | None) -> bool:
    """Say whether an error is one that all workers raise together."""
    return type(error).__name__ in ("Stopped", "Diverged")


def _work(job: Job, member: Member | None, pipe: Connection) -> None:
    import torch

    from trainables.training import zero_engine

    rank = 0 if member is None else member.rank
    torch.set_num_threads(1)
    zero_engine.LIVE = 1  # a tiny model fits any limit meant for real ones, and would never let go of a weight
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    printed = job.folder.with_name(f"{job.folder.name}.printed-{rank}")
    descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    worked = Worked(Driven())
    try:
        if job.prepare is not None:
            job.prepare(rank)
        options: dict[str, Any] = {"inputs": job.inputs, "place": job.place, "resume_from": job.resume_from}
        execute(
            job.trainable,
            job.config,
            job.folder,
            member=member,
            stop_after=job.stops.get(rank),
            into=worked.driven,
            **options,
        )
    except Exception as error:
        worked.error, worked.trace = error, traceback.format_exc()
    worked.driven.context = None
    worked.printed = printed.read_text()
    pipe.send(worked)


@functools.cache
def _server() -> Any:
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context
