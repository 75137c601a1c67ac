"""What happens in a sweep, and how it is written down: `sweep.jsonl` in the store, one event per line.

The journal is for those who watch: nothing is decided by it. A sweep begins a new one; a watcher that holds the former
open sees by its inode that it was replaced. Times are Unix time on the driver's clock.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.plan import Run

JOURNAL = "sweep.jsonl"


@dataclass(frozen=True)
class Task:
    """What a watcher must know of a run: `cost_s` is what it is expected to take, `needs` are ids."""

    id: str
    name: str
    stage: str
    cost_s: float
    needs: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Run) -> Task:
        """Return a planned run as a task."""
        return cls(run.id, run.name, run.stage, round(run.cost_s, 3), tuple(dict.fromkeys(run.inputs.values())))


@dataclass(frozen=True)
class Planned:
    """Runs, in dependency order, that the sweep has come to know; `expected` replaces what it expected before.

    `expected` are runs that wait for a selection: they count among what is left, but their ids are not final.
    """

    at: float
    tasks: tuple[Task, ...] = ()
    expected: tuple[Task, ...] = ()


@dataclass(frozen=True)
class Began:
    """The sweep has begun: of which study, how many runs it can execute at once, what is cached per stage."""

    at: float
    study: str
    slots: float
    cached: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """A worker has begun an attempt at a run."""

    at: float
    id: str
    attempt: int
    host: str
    device: str


@dataclass(frozen=True)
class Ended:
    """A run has ended: with what it measured, in words, or why; `log` is relative to the store."""

    at: float
    id: str
    status: str
    measured: str = ""
    because: str = ""
    log: str = ""


@dataclass(frozen=True)
class Said:
    """Something worth a line that belongs to no run: a selection made, a tracking server lost."""

    at: float
    text: str


@dataclass(frozen=True)
class Stopping:
    """Somebody has asked the sweep to stop; the running runs leave a checkpoint."""

    at: float


@dataclass(frozen=True)
class Over:
    """The sweep executes nothing any more."""

    at: float


Event: TypeAlias = Began | Planned | Started | Ended | Said | Stopping | Over
KINDS: Mapping[str, type[Event]] = {
    kind.__name__.lower(): kind for kind in (Began, Planned, Started, Ended, Said, Stopping, Over)
}


def encode(event: Event) -> str:
    """Return an event as one line of JSON, without its end."""
    return json.dumps({"event": type(event).__name__.lower(), **asdict(event)})


def decode(line: str) -> Event | None:
    """Return the event in a line; None for one that is cut short or of another version."""
    try:
        about: dict[str, Any] = json.loads(line)
        kind = KINDS[about.pop("event")]
        for name in ("tasks", "expected"):
            if name in about:
                about[name] = tuple(Task(**{**task, "needs": tuple(task["needs"])}) for task in about[name])
        return kind(**about)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class Journal:
    """The events of one sweep, on disk as they happen. A view: a disk that is full does not stop a sweep here."""

    def __init__(self, store: Path) -> None:
        """Begin a new journal in the store, in the place of the last sweep's."""
        path = store / JOURNAL
        beside = path.with_name(f".{JOURNAL}.{os.getpid()}")
        self.descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        beside.rename(path)

    def write(self, event: Event) -> None:
        """Append an event; a signal handler may, in the middle of another."""
        with contextlib.suppress(OSError):
            os.write(self.descriptor, f"{encode(event)}\n".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


class GrowingFile:
    """A text file that somebody else appends to, or replaces: gives its new whole lines each time it is asked."""

    def __init__(self, path: Path) -> None:
        """Name the file; it need not exist yet."""
        self.path = path
        self.inode = self.offset = 0
        self.rest = b""

    def was_replaced(self) -> bool:
        """Say whether another file has this name by now, or it has become shorter; then it is read from its start."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        is_other = self.offset > 0 and (found.st_ino != self.inode or found.st_size < self.offset)
        if is_other:
            self.offset, self.rest = 0, b""
        return is_other

    def lines(self) -> Iterator[str]:
        """Yield the lines that have become whole since the last time."""
        try:
            with self.path.open("rb") as stream:
                self.inode = os.fstat(stream.fileno()).st_ino
                stream.seek(self.offset)
                new = stream.read()
        except OSError:
            return
        self.offset += len(new)
        *whole, self.rest = (self.rest + new).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
