"""What a sweep talks to while it runs: course, journal, lines, and on a terminal the screen."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.base import Outcome
from orchestrator.live.course import Course
from orchestrator.live.events import Began, Ended, Event, Journal, Over, Planned, Said, Started, Stopping, Task
from orchestrator.live.lines import Lines
from orchestrator.live.state import State
from orchestrator.plan import Run
from orchestrator.record import Record
from trainables.base import Progress


@dataclass
class Reporter:
    """Tells of a sweep in the store at `root` that can execute `slots` runs at once; `has_screen`: on a screen.

    While the screen is up, the lines are in `sweep.log` in the store, with whatever else would have been printed.
    """

    root: Path
    slots: float
    has_screen: bool = False
    course: Course = field(init=False)

    def __post_init__(self) -> None:
        self.course = Course(str(self.root))
        self.lines = Lines(self.course, sys.stderr)
        self.lock = threading.RLock()  # a signal handler speaks from within
        self.journal: Journal | None = None

    @contextlib.contextmanager
    def showing(
        self, study: str, cached: Mapping[str, int], runs: Sequence[Run], expected: Sequence[Run]
    ) -> Iterator[None]:
        """Tell of the sweep from here on; `cached` are the finished runs of every stage, in the study's order."""
        self.journal = Journal(self.root)
        self._take(Began(time.time(), study, self.slots, dict(cached)))
        self.add(runs, expected)
        try:
            with self._screen():
                yield
        finally:
            self._take(Over(time.time()))
            self.journal.close()
            self.journal = None

    def add(self, runs: Sequence[Run], expected: Sequence[Run]) -> None:
        """Take runs that were planned while the sweep runs, and what is expected now."""
        self._take(Planned(time.time(), tuple(map(Task.of, runs)), tuple(map(Task.of, expected))))

    def started(self, run: Run, attempt: int, host: str) -> None:
        """Tell that a run has begun."""
        self._take(Started(time.time(), run.id, attempt, host, run.place.label))

    def progressed(self, run: Run, progress: Progress) -> None:
        """Note a step."""
        now = time.time()
        with self.lock:
            self.course.measured(
                run.id, progress.metrics, step=progress.step, total=progress.total, clock_s=now, at=now
            )
            self.lines.remind(now)

    def finished(self, outcome: Outcome) -> None:
        """Tell how a run ended."""
        log = outcome.log if outcome.log is not None and outcome.status not in ("done", "stopped") else None
        name = str(log.relative_to(self.root) if log.is_relative_to(self.root) else log) if log else ""
        words = measured(outcome.record) if outcome.record is not None else ""
        self._take(Ended(time.time(), outcome.run.id, outcome.status, words, outcome.because, name))

    def say(self, text: str) -> None:
        """Tell something that belongs to no run."""
        self._take(Said(time.time(), text))

    def tell(self, line: str) -> None:
        """Tell something that the user must not miss: an event while the sweep is shown, and a line that lasts."""
        if self.journal is None or self.has_screen:
            sys.stderr.write(f"{line}\n")  # the screen takes it as an event, and prints it again at its end
        else:
            self.say(line)

    def stopping(self) -> None:
        """Tell that somebody wants the sweep to stop. Safe in a signal handler."""
        self._take(Stopping(time.time()))
        self.tell("stopping: the running runs leave a checkpoint (again to leave at once)")

    def state(self) -> State:
        """Return how far the sweep is now."""
        with self.lock:
            return self.course.state(time.time())

    def _take(self, event: Event) -> None:
        with self.lock:
            if self.journal is not None:
                self.journal.write(event)
            self.lines.take(event)

    @contextlib.contextmanager
    def _screen(self) -> Iterator[None]:
        if not self.has_screen:
            yield
            return
        from orchestrator.live.screen import Terminal

        with Terminal(self.root, self.say) as terminal:
            before, self.lines.stream = self.lines.stream, terminal.log
            try:
                with terminal.live(self.state):
                    yield
            finally:
                self.lines.stream = before


TELLING: Mapping[str, tuple[str, str]] = {
    "test_loss": ("test loss", ".3f"),
    "final_eval_loss": ("held-out loss", ".3f"),
    "relative_delta": ("|dW|/|W|", ".4f"),
    "parameters": ("parameters", ",.0f"),
    "train_items": ("train items", ",.0f"),
}
"""The metric worth a place in a run's line, the first that it has, and its format."""


def measured(record: Record) -> str:
    """Return what a run has measured, in a few words."""
    for name, (label, form) in TELLING.items():
        value = record.metrics.get(name)
        if isinstance(value, int | float):
            return f"{label} {value:{form}}"
    return ""
