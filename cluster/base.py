"""What a backend is: it executes runs whose needs are met, and tells an observer as things happen.

The contract, the same for every backend and tested on each:
- a run starts only when all the runs it needs are `done` in the store;
- what needs a run that did not end `done` is reported `skipped`, everything else goes on;
- the observer is called in the driver, one call at a time; `finished` is called before any dependant starts,
  and what the observer raises stops the sweep and comes out of `run`;
- `planned` is asked after every end that was told, and what it returns joins the sweep that runs;
- `stop()` may be called from a signal handler: running runs leave a checkpoint, nothing new starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.plan import Run
from orchestrator.record import Record
from orchestrator.store import Store
from trainables.base import Place, Progress


@dataclass(frozen=True)
class Job:
    """A run to execute, in a form that travels to a worker."""

    run: Run
    store: Path

    def open_store(self) -> Store:
        """Return the store, on whatever machine this is."""
        return Store(self.store)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `record` is None only for `skipped` and for a run that was stopped."""

    run: Run
    status: str
    record: Record | None = None
    log: Path | None = None
    because: str = ""


class Observer(Protocol):
    """What the driver wants to hear."""

    def started(self, run: Run, attempt: int, host: str) -> None:
        """A worker has begun this attempt."""

    def progressed(self, run: Run, progress: Progress) -> None:
        """The run has reached a step."""

    def finished(self, outcome: Outcome) -> None:
        """The run has ended, well or not; its record is in the store."""

    def planned(self) -> Sequence[Run]:
        """Return the runs, in dependency order, that have come to be known of since this was last asked."""


class Backend(Protocol):
    """Executes the runs of a plan that the store lacks."""

    def check(self, places: Mapping[str, Place]) -> None:
        """Raise InfeasibleError if a stage's place can never be satisfied here."""

    def slots(self, place: Place) -> int:
        """Return how many runs of such a place fit at once here, at least one."""

    def run(self, runs: Sequence[Run], store: Store, observer: Observer) -> None:
        """Execute `runs` (in dependency order); returns when all have ended or `stop` was called."""

    def stop(self) -> None:
        """Ask the running runs to checkpoint and end; start nothing new. Safe in a signal handler."""

    def close(self) -> None:
        """Release what the backend holds (workers, a Ray session it started)."""
