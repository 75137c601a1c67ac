"""What a sweep says while it runs: a line per event on stderr, and how long is left.

Lines, one per event, are the same on a terminal and in a file, so that a log can be read and parsed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from cluster.base import Outcome
from orchestrator.plan import Run
from trainables.base import Progress

INTERVAL_S = 20.0
"""Seconds between two lines on the runs in progress."""


def duration(seconds: float) -> str:
    """Return a duration for people: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass
class Reporter:
    """Prints events; keeps the pace of what is done to tell what is left.

    `expected` are runs that wait for a selection: they count among what is left, but are not known by id yet.
    """

    runs: list[Run]
    slots: float
    expected: Sequence[Run] = ()
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def __post_init__(self) -> None:
        self.begun = time.monotonic()
        self.running: dict[str, tuple[float, Progress | None]] = {}
        self.left = {run.id: run for run in self.runs}
        self.pace: dict[str, tuple[float, int]] = {}
        self.last_line = self.begun

    def add(self, runs: Sequence[Run], expected: Sequence[Run]) -> None:
        """Take runs that were planned while the sweep runs, and what is expected now."""
        self.runs += runs
        self.left |= {run.id: run for run in runs}
        self.expected = expected

    def started(self, run: Run, attempt: int) -> None:
        """Say that a run has begun, if it is worth a line: a second attempt, or a stage that has few runs."""
        self.running[run.id] = (time.monotonic(), None)
        again = f"attempt {attempt}" if attempt > 1 else ""
        if again or run.cost_s > INTERVAL_S:
            self.line(f"{run.name:<32} started  {again}")

    def progressed(self, run: Run, progress: Progress) -> None:
        """Note a step; every 20 seconds say how far the running runs are."""
        since, before = self.running.get(run.id, (time.monotonic(), None))
        if before is not None:
            progress = Progress(progress.step, progress.total, {**before.metrics, **progress.metrics})
        self.running[run.id] = (since, progress)
        if time.monotonic() - self.last_line > INTERVAL_S:
            self.line("; ".join(self._about(run_id) for run_id in self.running))

    def finished(self, outcome: Outcome) -> None:
        """Say how a run ended, how many are done and how long the rest will take."""
        run = outcome.run
        self.left.pop(run.id, None)
        since, _ = self.running.pop(run.id, (time.monotonic(), None))
        if outcome.status == "done":
            seconds, count = self.pace.get(run.stage, (0.0, 0))
            self.pace[run.stage] = (seconds + time.monotonic() - since, count + 1)
        measured = f"  {_telling(outcome)}" if outcome.record else ""
        because = f"  {outcome.because}" if outcome.because else ""
        self.line(f"{run.name:<32} {outcome.status:<8} {duration(time.monotonic() - since):>9}{measured}{because}")

    def line(self, text: str) -> None:
        """Print one line with the share done and the time left in front."""
        self.last_line = time.monotonic()
        done, total = len(self.runs) - len(self.left), len(self.runs) + len(self.expected)
        left = f"{duration(self.seconds_left())} left" if done < total else "all done"
        self.stream.write(f"{done:>4}/{total}  {left:>16}  {text.rstrip()}\n")
        self.stream.flush()

    def seconds_left(self) -> float:
        """Return the estimated wall time of what is left: its work over the slots, at least the longest run."""
        work = longest = 0.0
        for run in self.left.values():
            cost = self._cost(run)
            if run.id in self.running:
                cost = max(cost - (time.monotonic() - self.running[run.id][0]), 0.0)
            work += cost
            longest = max(longest, cost)
        work += sum(self._cost(run) for run in self.expected)
        return max(work / max(self.slots, 1), longest)

    def _cost(self, run: Run) -> float:
        seconds, count = self.pace.get(run.stage, (run.cost_s, 1))
        return seconds / count

    def _about(self, run_id: str) -> str:
        run = next(run for run in self.runs if run.id == run_id)
        progress = self.running[run_id][1]
        if progress is None:
            return f"{run.name} starting"
        loss = progress.metrics.get("loss")
        held_out = progress.metrics.get("eval_loss")
        parts = [f"{run.name} step {progress.step}/{progress.total}"]
        parts += [f"loss {loss:.3f}"] if loss is not None else []
        parts += [f"held-out {held_out:.3f}"] if held_out is not None else []
        return " ".join(parts)


TELLING: Mapping[str, tuple[str, str]] = {
    "test_loss": ("test loss", ".3f"),
    "final_eval_loss": ("held-out loss", ".3f"),
    "relative_delta": ("|dW|/|W|", ".4f"),
    "parameters": ("parameters", ",.0f"),
    "train_items": ("train items", ",.0f"),
}
"""The metric worth a place in a run's line, the first that it has, and its format."""


def _telling(outcome: Outcome) -> str:
    metrics = outcome.record.metrics if outcome.record else {}
    for name, (label, form) in TELLING.items():
        value = metrics.get(name)
        if isinstance(value, int | float):
            return f"{label} {value:{form}}"
    return ""
