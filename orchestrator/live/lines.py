"""A sweep in plain lines, one per event, for pipes, logs and CI; the columns are described in docs/live.md.

    done/total  time left  subject  event  details ...

Columns are two or more spaces apart, and there are no two spaces in a row within one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TextIO

from orchestrator.live.course import Course
from orchestrator.live.events import Ended, Event, Said, Started
from orchestrator.live.state import Running
from orchestrator.progress import duration

INTERVAL_S = 20.0
"""Seconds between two lines on the runs in progress; a run that takes less is not worth a line when it begins."""

SWEEP = "sweep"
"""The subject of what belongs to no run."""


@dataclass
class Lines:
    """Prints a line per event that a course has taken, and one on the runs in progress if there was none for long."""

    course: Course
    stream: TextIO
    last_line_at: float = 0.0

    def take(self, event: Event) -> None:
        """Give the course its next event, and print the line if it is worth one."""
        begun = self.course.started.get(event.id) if isinstance(event, Ended) else None
        self.course.take(event)
        match event:
            case Started():
                self._started(event)
            case Ended():
                took = duration(event.at - begun.at if begun is not None else 0.0)
                details = (f"{took:>9}", event.measured, event.because)
                self.line(event.at, self.course.name(event.id), event.status, *details)
            case Said():
                self.line(event.at, SWEEP, "note", event.text)

    def remind(self, now: float) -> None:
        """Say how far the running runs are, if nothing was said for a while."""
        self.last_line_at = self.last_line_at or now
        if now - self.last_line_at > INTERVAL_S:
            self.line(now, SWEEP, "progress", "; ".join(_about(run) for run in self.course.state(now).running))

    def line(self, now: float, subject: str, event: str, *details: str) -> None:
        """Print one line with the share done and the time left in front."""
        self.last_line_at = now
        done, total = self.course.done, self.course.total
        left = f"{duration(self.course.seconds_left(now))} left" if done < total else "all done"
        shown = [f"{done:>4}/{total}", f"{left:>16}", f"{_one(subject):<32}", f"{event:<8}"]
        shown += [f"{_one(detail):>{len(detail)}}" for detail in details if detail]
        self.stream.write("  ".join(shown).rstrip() + "\n")
        self.stream.flush()

    def _started(self, event: Started) -> None:
        task = self.course.tasks.get(event.id)
        if event.attempt > 1 or task is None or task.cost_s > INTERVAL_S:
            self.line(event.at, self.course.name(event.id), "started", f"attempt {event.attempt}")


def _one(text: str) -> str:
    """Return the text as one column."""
    return " ".join(text.split())


def _about(run: Running) -> str:
    if not run.total:
        return f"{run.name} starting"
    parts = [f"{run.name} step {run.step}/{run.total}"]
    parts += [f"loss {run.loss:.3f}"] if run.loss is not None else []
    parts += [f"held-out {run.held_out:.3f}"] if run.held_out is not None else []
    return " ".join(parts)
