"""What a sweep tells MLflow: events into a queue, and the one thread that takes them out and writes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.plan import Plan, Run
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.tracking.client import tracking_uri
from orchestrator.tracking.content import now_ms
from orchestrator.tracking.current import mark_synced, states
from orchestrator.tracking.experiment import Experiment
from trainables.base import Progress

if TYPE_CHECKING:
    from cluster.base import Outcome


class Tracker:
    """The one writer to MLflow. Every method returns at once; `close` waits until all is written.

    `problem` says in one line what stopped the writing, if anything did.
    """

    def __init__(self, study: Study, store: Store, *, views: Path | None = None) -> None:
        """Name the study and where it is tracked; nothing is imported, opened or created before the first event."""
        self.study, self.store, self.views = study, store, views
        self.problem: str | None = None
        self._queue: queue.SimpleQueue[Callable[[Experiment], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def started(self, run: Run, attempt: int = 1) -> None:
        """A run has begun, or begun again."""
        self._put(lambda experiment: experiment.start(run, attempt))

    def progressed(self, run: Run, progress: Progress) -> None:
        """A run has measured something at a step."""
        if progress.metrics:
            now = now_ms()
            self._put(lambda experiment: experiment.measure(run, progress, now))

    def finished(self, outcome: Outcome) -> None:
        """A run has ended, well or not."""
        if outcome.status not in ("skipped", "superseded"):
            self._put(lambda experiment: experiment.finish(outcome.run, outcome.record))

    def sync(self, plan: Plan, *, report: Path | None = None) -> None:
        """Complete whatever MLflow lacks of the plan's records, and upload the report if it has changed."""

        def complete(experiment: Experiment) -> None:
            told = states(plan, self.store, report)
            experiment.sync(plan, self.store, report)
            mark_synced(self.study, self.store, experiment.uri, told)

        self._put(complete)

    def close(self) -> str | None:
        """Write what is waiting and end; return what went wrong, in one line, or None."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        return self.problem

    def _put(self, event: Callable[[Experiment], None]) -> None:
        if self.problem is not None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="mlflow", daemon=True)
            self._thread.start()
        self._queue.put(event)

    def _write(self) -> None:
        """Take events off the queue until it is closed; runs on the thread."""
        try:
            experiment = Experiment(self.study, self.store, tracking_uri(self.store, self.views))
            while (event := self._queue.get()) is not None:
                event(experiment)
                experiment.flush(due_only=not self._queue.empty())
            experiment.close()
        # MLflow is a view: a server that is gone must not stop a sweep whose records are safe (contract C2).
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.problem = f"MLflow: {type(error).__name__}: {lines[0]}; the next command completes it"
