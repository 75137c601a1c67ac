"""Whom to kill and when, drawn from a seed; and what was going on when it happened."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.live import Live, live
from orchestrator.store import Store
from tests.chaos.processes import Process, family
from tests.chaos.watch import Event, Watch

VICTIMS = {"driver": 4, "worker": 5, "raylet": 1}
MOMENTS = {"any time": 3, "checkpoint": 4, "commit": 4, "just committed": 1}
"""How often each is drawn, relative to the others."""


HALF = "half done"
"""What the kill met was not complete then; a worker whose driver is killed may still complete it."""


@dataclass(frozen=True)
class Kill:
    """Who is to be killed, and when.

    moment  checkpoint: as a checkpoint's temporary folder appears; commit: as a record is being written;
            just committed: as an artefact appears; any time: `after_s` seconds after the first run has begun
    count   the how-manieth such event it is
    """

    victim: str
    moment: str
    count: int
    after_s: float


def draw(chance: random.Random, span_s: float) -> Kill:
    """Return the next kill; `span_s` is about how long a sweep takes."""
    victim = chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
    moment = chance.choices(list(MOMENTS), list(MOMENTS.values()))[0]
    return Kill(victim, moment, chance.randint(1, 3), chance.uniform(0.0, span_s))


@dataclass
class Done:
    """A kill that has happened; `then` becomes what later commands made of the runs that it met."""

    store: int
    kill: Kill
    met: list[Live]
    during: str
    code: int | None = None
    then: dict[str, str] = field(default_factory=dict)
    outcome: str = ""


class Hunt:
    """Waits, in one command, for the moment of a kill."""

    def __init__(self, store: Path, watch: Watch, kill: Kill, pid: int, writers: dict[Path, int]) -> None:
        """Hunt in the command with this process number; `writers` are those known by attempt, and grows."""
        self.store, self.watch, self.kill, self.pid = store, watch, kill, pid
        self.seen = 0
        self.began_s: float | None = None
        self.writers = writers
        self.members: set[Process] = set()
        self.looked_s = 0.0

    def wait(self, is_over: Callable[[], bool]) -> tuple[Event | None] | None:
        """Kill when it is time; return the event that brought it, if one did, or None if the command ended before."""
        for event in self.watch.events(0.0):  # what has happened before
            self._note(event)
        while not is_over():
            for event in self.watch.events(0.02):
                self._note(event)
                if self._is_it(event) and self._strike(event):
                    return (event,)
            if self._is_time() and self._strike(None):
                return (None,)
            if time.monotonic() - self.looked_s > 1.0:
                self.members |= set(family(self.pid))
                self.looked_s = time.monotonic()
        return None

    def _note(self, event: Event) -> None:
        """Learn from temporary names, which end in the writer's number, who works on which attempt."""
        found = re.fullmatch(r"\.(?:progress|record)\.json\.(\d+)", event.path.name)
        if found:
            self.writers[attempt_of(event.path, self.store)] = int(found[1])
            self.began_s = self.began_s or time.monotonic()

    def _is_it(self, event: Event) -> bool:
        name, parent = event.path.name, event.path.parent
        kinds = {
            "checkpoint": not event.moved and name.startswith(".step-"),
            "commit": name.startswith(".record.json."),
            "just committed": event.moved and parent.name == "artefacts",
        }
        self.seen += kinds.get(self.kill.moment, False)
        return kinds.get(self.kill.moment, False) and self.seen >= self.kill.count

    def _is_time(self) -> bool:
        is_due = self.began_s is not None and time.monotonic() - self.began_s >= self.kill.after_s
        return is_due and self.kill.moment == "any time"

    def _strike(self, event: Event | None) -> bool:
        """Kill the victim; say whether there was one."""
        victim = self._victim(event)
        if victim is None:
            return False
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _victim(self, event: Event | None) -> int | None:
        """Return whom to kill: the worker that caused the event, if it is to be a worker and one did."""
        if self.kill.victim == "driver":
            return self.pid
        own = self.writers.get(attempt_of(event.path, self.store)) if event is not None else None
        if self.kill.victim == "worker" and own is not None:
            return own
        found = [one.pid for one in family(self.pid) if one.kind == self.kill.victim]
        return found[self.kill.count % len(found)] if found else None


def attempt_of(path: Path, store: Path) -> Path:
    """Return the attempt's folder, work/ID/NUMBER, below which a path is; the path itself if it is below none."""
    parts = path.relative_to(store).parts
    return store.joinpath(*parts[:3]) if parts[0] == "work" and len(parts) > 2 else path


def about(event: Event | None, kill: Kill) -> str:
    """Return what was being done just then, and whether the kill came before it was complete."""
    if event is None:
        return "–"
    path = event.path
    if kill.moment == "checkpoint":
        is_cut = path.is_dir() and not path.with_name(path.name[1:]).exists()
        return f"{stage(path.parents[2].name)} {path.name[1:]} {HALF if is_cut else 'just written'}"
    if kill.moment == "commit":
        is_cut = path.parent.is_dir()
        return f"{stage(path.parents[2].name)} commit {HALF if is_cut else 'just over'}"
    return f"{stage(path.name)} committed"


def stage(run_id: str) -> str:
    return run_id.rpartition("-")[0]


def met(store: Path) -> list[Live]:
    """Return the runs that have begun and not ended."""
    with contextlib.suppress(OSError, ValueError):  # while others still write
        return [one for one in live(Store(store)) if not Store(store).is_finished(one.run_id)]
    return []


def follow(done: Done, store: Path) -> None:
    """Note what has become, by now, of the runs that a kill met."""
    for one in done.met:
        if one.run_id in done.then:
            continue
        later = store / "work" / one.run_id / str(one.attempt + 1) / "output" / "log.txt"
        artefact = store / "artefacts" / one.run_id
        with contextlib.suppress(OSError, ValueError):
            if (artefact / "record.json").is_file():
                record = json.loads((artefact / "record.json").read_text())
                is_same = record["provenance"]["attempt"] == one.attempt
                done.then[one.run_id] = (
                    "went on to its commit" if is_same else _resumed((artefact / "log.txt").read_text())
                )
            elif later.is_file():
                done.then[one.run_id] = _resumed(later.read_text())


def _resumed(log: str) -> str:
    found = re.search(r"resumes from step-(\d+)", log)
    return f"resumed at {found[1]}" if found else "began anew"
