"""A run on several workers, seen from its driver: begin, start them, hear them, end them all, commit.

A gang lives and dies as a whole. Its driver alone opens and concludes the attempt, when no worker is left that could
still write: so a worker that is gone, hangs, or was cut off decides nothing. `judge` says what became of the run from
how its workers ended; it is pure. What differs from backend to backend, processes and how they are reached, is the
`Crew`.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from cluster.attempt import begin
from cluster.base import Job, Outcome
from cluster.ending import Ending, conclude
from cluster.notes import Log, Notes
from cluster.share import Said
from orchestrator.store import Attempt
from trainables.base import Member, Progress
from trainables.training.memory import MicroBatch, asks_for_restart, find_word

ECHO_S = 20.0
"""How long the loss of a worker may take to be noticed, once another worker has lost its connection to it."""

PATIENCE_S = 600.0
"""How long workers may take to start, and to end once worker 0, or a wish to stop, has ended the run."""

HEAR_S = 1.0


class WorkerLost(Exception):
    """A worker is gone, and the run with it; another attempt goes on from its last checkpoint."""


class Crew(Protocol):
    """The processes of one gang."""

    address: str
    """Where worker 0 can be reached by the others."""

    def free_port(self) -> int:
        """Return a port that worker 0 may listen on."""

    def start(self, job: Job, attempt: Attempt, members: Iterable[Member], halt: Path | None) -> None:
        """Start a fresh process for each member; each speaks once it has begun. Raises WorkerLost."""

    def hear(self, timeout_s: float) -> Iterable[tuple[int, Said]]:
        """Wait until a worker speaks; return ranks and what was said. One that is gone has the ending `lost`."""

    def end(self) -> None:
        """Kill what is left; return when it is gone."""


class Gang:
    """A run on several workers: to be advanced like an `Execution`, by `next`, until `outcome` says how it ended."""

    def __init__(self, job: Job, crew: Crew, halt: Path | None = None) -> None:
        """Begin the attempt; the workers start with the first `next`."""
        self.job, self.crew, self.halt = job, crew, halt
        self.size = job.run.place.workers
        self.outcome: Outcome | None = None
        self.attempt = begin(job)
        self.log = Log(self.attempt.output / "log.txt")
        self.started = Notes.begin(self.attempt).started
        self.waits_since: float | None = None
        self.begun: set[int] = set()
        self.endings: dict[int, Ending] = {}
        self.heard: deque[Progress] = deque()
        self.last: Progress | None = None
        self.micro_batch: MicroBatch | None = None

    def __iter__(self) -> Gang:
        return self

    def __next__(self) -> Progress:
        """Wait for the next step of worker 0; StopIteration when the run has ended and `outcome` is set."""
        if self.waits_since is None:
            self._start()
        while not self.heard and self.outcome is None:
            verdict = self._judge()
            if verdict is not None:
                self._end(verdict)
                continue
            for rank, said in self.crew.hear(HEAR_S):
                self._hear(rank, said)
        if self.heard:
            return self.heard.popleft()
        raise StopIteration

    def close(self) -> None:
        """Abandon the run where it is; its checkpoints stay for the next attempt."""
        self.crew.end()

    def _start(self, resume_from: Path | None = None) -> None:
        self.waits_since = time.monotonic()
        self.micro_batch = find_word(self.attempt.checkpoints)
        attempt = self.attempt if resume_from is None else dataclasses.replace(self.attempt, resume_from=resume_from)
        port = self.crew.free_port()
        members = [Member(rank, self.size, self.crew.address, port) for rank in range(self.size)]
        try:
            self.crew.start(self.job, attempt, members, self.halt)
        except WorkerLost as lost:
            self.endings[0] = Ending("lost", error=str(lost))

    def _hear(self, rank: int, said: Said) -> None:
        if said.problem is not None:
            self.crew.end()
            raise said.problem
        self.heard.extend(said.progress)
        self.last = said.progress[-1] if said.progress else self.last
        if rank not in self.begun:
            self.begun.add(rank)
            self.waits_since = time.monotonic()
        if said.ending is not None and rank not in self.endings:
            if not any(map(_sets_clock, self.endings.items())):
                self.waits_since = time.monotonic()
            self.endings[rank] = said.ending

    def _judge(self) -> Ending | None:
        waited_s = time.monotonic() - (self.waits_since or 0.0)
        if len(self.begun) < self.size and not self.endings and waited_s > PATIENCE_S:
            missing = sorted(set(range(self.size)) - self.begun)
            return Ending("lost", error=f"{_workers(missing, self.size)} did not start within {PATIENCE_S:g} s")
        return judge(self.size, self.endings, waited_s)

    def _end(self, ending: Ending) -> None:
        self.crew.end()
        if ending.status == "oom" and asks_for_restart(self.attempt.checkpoints, self.micro_batch):
            self.log(f"{ending.error}; starts again with a smaller micro-batch")
            self.begun, self.endings = set(), {}
            self._start(self._newest_checkpoint())
            return
        self._conclude(ending)

    def _newest_checkpoint(self) -> Path | None:
        step = self.job.open_store().last_checkpoint(self.job.run.id)
        newest = self.attempt.checkpoints / f"step-{step}"
        return newest if newest.is_dir() else None

    def _conclude(self, ending: Ending) -> None:
        for rank, one in self.endings.items():
            if one.trace and one.trace != ending.trace:
                self.log(f"worker {rank} of {self.size}: {one.trace}")
        if ending.status in ("lost", "failed", "oom"):
            self.log(ending.error)
        notes = Notes.found(self.attempt, self.started)
        self._catch_up(notes)
        peaks = [one.peak_memory_gib for one in self.endings.values() if one.peak_memory_gib is not None]
        ending = dataclasses.replace(ending, peak_memory_gib=max(peaks, default=None))
        self.outcome = conclude(self.job, self.attempt, ending, notes)

    def _catch_up(self, notes: Notes) -> None:
        """Pass on the steps that worker 0 has noted, and not come to speak of."""
        heard, total = (self.last.step, self.last.total) if self.last else (notes.resumed_at, 0)
        for row in notes.rows:
            step, metrics = int(row["step"]), {name: value for name, value in row.items() if name != "step"}
            if step > heard:
                self.heard.append(Progress(step, max(step, total), metrics))


def judge(size: int, endings: Mapping[int, Ending], waited_s: float) -> Ending | None:
    """Return how the run has ended, from how some of its workers have, or None while that is open.

    `waited_s` is the time since the first of them ended whose end should be that of all. A worker that is gone, and an
    error, end the run at once; but an error that only says that another worker is gone waits for that one's own end.
    """
    lost = _first(endings, "lost")
    if lost is not None:
        return dataclasses.replace(lost[1], error=f"worker {lost[0]} of {size} lost: {lost[1].error}")
    for status in ("oom", "failed"):
        failed = _first({rank: one for rank, one in endings.items() if not one.is_echo}, status)
        if failed is not None:
            return _named(*failed, size)
    is_complete = len(endings) == size
    echo = next(((rank, one) for rank, one in endings.items() if one.is_echo), None)
    if not is_complete and waited_s < (PATIENCE_S if echo is None else ECHO_S):
        return None
    if not is_complete and not any(map(_sets_clock, endings.items())):
        return None
    return _agreed(size, endings, echo)


def _agreed(size: int, endings: Mapping[int, Ending], echo: tuple[int, Ending] | None) -> Ending:
    """Return the end of a run none of whose workers is gone or has failed on its own."""
    for status in ("stopped", "diverged"):
        found = _first(endings, status)
        if found is not None:
            return found[1]
    if echo is not None and 0 in endings and endings[0].status == "done":
        return _named(*echo, size)
    if echo is not None:
        return Ending("lost", error=f"worker {echo[0]} of {size} lost its connection: {echo[1].error}")
    missing = sorted(set(range(size)) - set(endings))
    if missing:
        return Ending("failed", error=f"{_workers(missing, size)} did not end within {PATIENCE_S:g} s of worker 0")
    return endings[0]


def _sets_clock(item: tuple[int, Ending]) -> bool:
    """Say whether the others have to follow: worker 0 may be at work alone long after they are done."""
    rank, ending = item
    return rank == 0 or ending.status != "done"


def _first(endings: Mapping[int, Ending], status: str) -> tuple[int, Ending] | None:
    return next(((rank, one) for rank, one in endings.items() if one.status == status), None)


def _named(rank: int, ending: Ending, size: int) -> Ending:
    """Say in which worker an error was raised, if there are several."""
    if size == 1:
        return ending
    return dataclasses.replace(ending, error=f"{ending.error} (worker {rank} of {size})")


def _workers(ranks: list[int], size: int) -> str:
    return f"worker{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} of {size}"
