"""`status --watch`: a sweep seen from another terminal, or another host, by its store alone.

The driver's journal says what happens, the workers' `progress.json` and `rows.jsonl` how far the running runs are.
Each file is read from where it was left, so that watching costs as little as the sweep's own screen.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.live.course import Course
from orchestrator.live.events import JOURNAL, GrowingFile, Started, decode
from orchestrator.live.lines import Lines
from orchestrator.live.screen import REFRESH_HZ, Drawn, suits
from orchestrator.live.state import State
from orchestrator.store import Store

LOOK_S = 1 / REFRESH_HZ
HOLDER_EVERY_S = 2.0
"""How often the store's lock is looked at: whether the driver lives."""

HINT = "Ctrl-C leaves; the sweep goes on"


@dataclass
class Attempt:
    """The files of a running attempt, and what its progress.json said last."""

    begun: Started
    rows: GrowingFile
    progress: Path
    said: str = ""


@dataclass
class Watcher:
    """Keeps a course of the sweep in a store; `lines` prints its events, if given."""

    store: Store
    lines: Lines | None = None
    attempts: dict[str, Attempt] = field(default_factory=dict)
    looked_at: float = 0.0
    is_driven: bool = True

    def __post_init__(self) -> None:
        self.course = Course(str(self.store.root))
        self.journal = GrowingFile(self.store.root / JOURNAL)

    @property
    def is_over(self) -> bool:
        """Whether the sweep has ended by itself."""
        return self.course.is_over

    def look(self) -> None:
        """Take what has happened since the last time."""
        if self.journal.was_replaced():
            self.course, self.attempts = Course(str(self.store.root)), {}
        if self.lines is not None:
            self.lines.course = self.course
        for line in self.journal.lines():
            event = decode(line)
            if event is not None:
                (self.lines or self.course).take(event)
        for run_id, begun in self.course.started.items():
            self._measure(run_id, begun)
        now = time.monotonic()
        if now - self.looked_at > HOLDER_EVERY_S:
            self.looked_at, self.is_driven = now, self.store.holder() is not None
        if self.lines is not None and self.is_driven:
            self.lines.remind(time.time())

    def state(self) -> State:
        """Return how far the sweep was when last looked at."""
        return self.course.state(time.time(), is_driven=self.is_driven)

    def _measure(self, run_id: str, begun: Started) -> None:
        attempt = self.attempts.get(run_id)
        if attempt is None or attempt.begun != begun:
            folder = self.store.work / run_id / str(begun.attempt)
            attempt = Attempt(begun, GrowingFile(folder / "rows.jsonl"), folder / "progress.json")
            self.attempts[run_id] = attempt
            self.course.measured(run_id, {}, step=0, total=0, clock_s=0.0, at=begun.at)
        track = self.course.tracks[run_id]
        for line in attempt.rows.lines():
            with contextlib.suppress(ValueError):  # cut short by a kill
                track.measure(json.loads(line))
        about = self._progress(attempt)
        if about:
            step, total = about["step"], about["total"]
            self.course.measured(run_id, {}, step=step, total=total, clock_s=about["seconds"], at=time.time())

    def _progress(self, attempt: Attempt) -> dict[str, Any]:
        """Return what the attempt says of itself, if it has said something since the last time."""
        with contextlib.suppress(OSError, ValueError):
            said = attempt.progress.read_text()
            if said != attempt.said:
                attempt.said = said
                return dict(json.loads(said))
        return {}


def watch(store: Store) -> None:
    """Show the sweep in a store until it has ended: a screen on a terminal, else lines."""
    if not suits(sys.stdout):
        _until_over(Watcher(store, Lines(Course(), sys.stdout)))
        return
    watcher = Watcher(store)
    with Drawn(sys.stdout, watcher.state, HINT, auto_refresh=False) as drawn:
        _until_over(watcher, drawn)


def _until_over(watcher: Watcher, drawn: Drawn | None = None) -> None:
    watcher.look()
    while not watcher.is_over:
        if drawn is not None:
            drawn.refresh()
        time.sleep(LOOK_S)
        watcher.look()
