"""What an attempt leaves word of as it goes: its log, what it measured, how far it is.

`rows.jsonl` holds what was measured, one line a step, so that a resumed run keeps its whole history; `progress.json`
says how far the attempt is, for `status`. A row is on disk before the generator is advanced again: a trainable that
yields step N before it writes checkpoint `step-N` loses no row by a kill.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.durable import write_atomically
from orchestrator.store import Attempt
from trainables.base import Progress

PROGRESS_EVERY_S = 0.2
Row: TypeAlias = dict[str, float]


@dataclass
class Log:
    """A log file; a line is on disk as soon as it is written."""

    path: Path

    def __call__(self, line: str) -> None:
        """Append one line, with the time."""
        with self.path.open("a") as stream:
            stream.write(f"{time.strftime('%H:%M:%S')}  {line}\n")


@dataclass
class Notes:
    """The measurements of an attempt, those before its checkpoint included, and the time it has taken."""

    folder: Path
    rows: list[Row]
    started: float
    seconds_before: float
    resumed_at: int = 0
    noted: float = 0.0

    @classmethod
    def begin(cls, attempt: Attempt) -> Notes:
        """Return the notes of an attempt that begins: those of earlier ones, up to its checkpoint."""
        rows, seconds = earlier(attempt)
        append_rows(attempt.folder, rows)
        return cls(attempt.folder, rows, time.time(), seconds, _resumed_at(attempt))

    @classmethod
    def found(cls, attempt: Attempt, started: float) -> Notes:
        """Return the notes of an attempt that another process has begun, then (seconds since the epoch)."""
        rows = read_progress(attempt.folder).get("rows", [])
        return cls(attempt.folder, rows, started, earlier(attempt)[1], _resumed_at(attempt))

    def note(self, progress: Progress) -> None:
        """Keep the measurements of a step, and leave word of how far the run is."""
        if progress.metrics:
            row = {"step": progress.step, **progress.metrics}
            append_rows(self.folder, [row])
            merge_row(self.rows, row)
        if time.time() - self.noted >= PROGRESS_EVERY_S:
            self.noted = time.time()
            write_progress(self.folder, {"step": progress.step, "total": progress.total, "seconds": self.seconds()})

    def seconds(self) -> float:
        """Return the wall time of this attempt until now and of those that it resumes from."""
        return self.seconds_before + time.time() - self.started


def earlier(attempt: Attempt) -> tuple[list[Row], float]:
    """Return the step history up to the checkpoint that this attempt resumes from, and the seconds it took."""
    if attempt.resume_from is None:
        return [], 0.0
    step = _resumed_at(attempt)
    about = read_progress(attempt.resume_from.parents[1])
    return [row for row in about.get("rows", []) if row["step"] <= step], float(about.get("seconds", 0.0))


def merge_row(rows: list[Row], row: Row) -> None:
    """Add what was measured at a step; later steps, of a run that went back to a checkpoint, are forgotten."""
    while rows and rows[-1]["step"] > row["step"]:
        rows.pop()
    if rows and rows[-1]["step"] == row["step"]:
        rows[-1].update(row)
    else:
        rows.append(row)


def append_rows(folder: Path, rows: Iterable[Row]) -> None:
    """Add rows to what the attempt in `folder` has measured."""
    with (folder / "rows.jsonl").open("a") as stream:
        stream.writelines(f"{json.dumps(row)}\n" for row in rows)


def write_progress(folder: Path, about: Mapping[str, Any]) -> None:
    """Leave word of how far the attempt in `folder` is, for `status` and for a resume."""
    write_atomically(folder / "progress.json", json.dumps(about), durable=False)


def read_progress(folder: Path) -> dict[str, Any]:
    """Return what the attempt in `folder` last said of itself; empty if it has said nothing.

    step, total, seconds: how far it was, up to a fraction of a second ago; rows: all that it measured, by step.
    """
    about: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):
        about = dict(json.loads((folder / "progress.json").read_text()))
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        rows: list[Row] = []
        for line in (folder / "rows.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line that a kill cut short
                merge_row(rows, json.loads(line))
        about["rows"] = rows
    return about


def _resumed_at(attempt: Attempt) -> int:
    return 0 if attempt.resume_from is None else int(attempt.resume_from.name.removeprefix("step-"))
