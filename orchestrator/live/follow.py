"""`status --follow RUN`: the log of one run as it grows, attempt after attempt, until the run has ended.

The driver's journal says whether the run is still to come, running or over; the record says how it ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.live.course import Course
from orchestrator.live.events import JOURNAL, Ended, GrowingFile, Planned, decode
from orchestrator.live.reporter import measured
from orchestrator.lookup import matching
from orchestrator.progress import duration
from orchestrator.store import Store

LOOK_S = 0.3


def find(text: str, store: Store) -> str:
    """Return the id of the run that `text` names among those of the last sweep and those that have a record."""
    records = store.records([*store.ids(), *store.failed_ids()])
    names = {run_id: record.name for run_id, record in records.items()}
    for line in GrowingFile(store.root / JOURNAL).lines():
        event = decode(line)
        if isinstance(event, Planned):
            names |= {task.id: task.name for task in event.tasks}
    return matching(text, names, str(store.root))


@dataclass
class Follower:
    """Follows one run; `say` is given the lines of its log, then one on how it ended."""

    store: Store
    run_id: str
    say: Callable[[str], None]
    attempt: int = 0
    log: GrowingFile | None = None
    ended: Ended | None = None

    def __post_init__(self) -> None:
        self.course = Course()
        self.journal = GrowingFile(self.store.root / JOURNAL)

    def follow(self) -> int:
        """Return, once the run has ended, 0 if it is `done` and else 1."""
        is_told = False
        while True:
            self._hear()
            ending = self._ending()  # before the log is read: nothing is written to it after the end
            self._pass_on()
            if ending is not None:
                status, words = ending
                self.say(f"{status}  {words}".rstrip())
                return 0 if status == "done" else 1
            if self.log is None and not is_told:
                is_told = True
                self.say(f"waiting for {self.run_id} ({self.course.name(self.run_id)}) to begin")
            time.sleep(LOOK_S)

    def _hear(self) -> None:
        if self.journal.was_replaced():
            self.course, self.ended = Course(), None
        for line in self.journal.lines():
            event = decode(line)
            if event is not None:
                self.course.take(event)
            if isinstance(event, Ended) and event.id == self.run_id:
                self.ended = event

    def _ending(self) -> tuple[str, str] | None:
        """Return the run's status and some words on it, or None while it runs or is to run."""
        is_of_sweep = self.run_id in self.course.tasks
        if self.ended is None and is_of_sweep and not self.course.is_over and self.store.holder() is not None:
            return None
        if self.ended is not None and self.ended.status in ("skipped", "stopped"):
            return self.ended.status, self.ended.because or "at a checkpoint; the same command goes on from there"
        record = self.store.record(self.run_id)
        if record is None:
            return "cut off", "the same command goes on from its last checkpoint"
        parts = [duration(record.provenance.seconds), measured(record), record.error or ""]
        return record.status, "  ".join(filter(None, parts))

    def _pass_on(self) -> None:
        path = self._path()
        if path is None:
            return
        if self.log is None:
            self.log = GrowingFile(path)
        self.log.path = path
        for line in self.log.lines():
            self.say(line)

    def _path(self) -> Path | None:
        """Return where the log is by now; a newer attempt's is read from its start."""
        folder = self.store.work / self.run_id
        newest = max((int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()), default=0)
        if newest > self.attempt:
            self.attempt, self.log = newest, None
        places = [folder / str(self.attempt) / "output", self.store.artefact(self.run_id)]
        failures = self.store.failures / self.run_id
        places += sorted(failures.glob("[0-9]*"), key=lambda path: int(path.name), reverse=True)
        return next((place / "log.txt" for place in places if (place / "log.txt").is_file()), None)
