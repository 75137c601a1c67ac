"""What a sweep tells MLflow while it runs, and what MLflow is told when it ends. Nothing here waits but `close`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.plan import Plan, Run
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.tracking.client import tracking_uri
from orchestrator.tracking.content import now_ms
from orchestrator.tracking.current import mark_open, mark_synced, recorded, states
from orchestrator.tracking.experiment import Experiment
from orchestrator.tracking.sender import Event, Sender
from trainables.base import Progress

if TYPE_CHECKING:
    from cluster.base import Outcome


def say(line: str) -> None:
    """Print one line on stderr."""
    sys.stderr.write(f"{line}\n")


class Tracker:
    """The one writer to MLflow."""

    def __init__(
        self, study: Study, store: Store, *, views: Path | None = None, tell: Callable[[str], None] = say
    ) -> None:
        """Name the study and where it is tracked; nothing is imported, opened or created before the first event.

        `tell` is told, on the tracker's own thread, when a server is lost and when it is back.
        """
        self.study, self.store, self.tell = study, store, tell
        self.uri = tracking_uri(store, views)
        self._sender: Sender | None = None
        self._plan: Plan | None = None
        self._report: Path | None = None

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
        """In the end complete whatever MLflow lacks of the plan's records, and upload the report if it has changed."""
        self._plan, self._report = plan, report
        self._started()

    def close(self, *, patience_s: float = float("inf"), command: str = "") -> str | None:
        """Send what waits and end; return in one line what is kept and why, or None if all is sent.

        Waits while a server answers, but no longer than `patience_s` seconds. `command` is what sends the rest later.
        """
        if self._sender is None:
            return None
        why = self._sender.end(self._last(), patience_s)
        kept = None if why is None else f"MLflow: {why}; {self._kept()}{f': {command}' if command else ''}"
        self._sender = None
        return kept

    def _put(self, event: Event) -> None:
        self._started().put(event)

    def _started(self) -> Sender:
        if self._sender is None:
            self._sender = Sender(self.uri, self._open, self.tell)
            self._sender.start()
        return self._sender

    def _open(self, client: Any) -> Experiment:
        mark_open(self.study, self.store, self.uri)
        return Experiment(self.study, self.store, self.uri, client)

    def _last(self) -> list[Event]:
        """Return what is done when all events are through; a request that was lost may have come to effect by then."""
        sender, plan = self._sender, self._plan
        assert sender is not None

        def settle(experiment: Experiment) -> None:
            if sender.was_lost:
                experiment.look_again()

        def complete(experiment: Experiment) -> None:
            assert plan is not None
            told.update(states(plan, self.store, self._report))
            experiment.sync(plan, self.store, self._report)

        told: dict[str, str] = {}
        done: list[Event] = [settle, Experiment.close]
        if plan is not None:
            done[1:1] = [complete]
            done += [lambda _: mark_synced(self.study, self.store, self.uri, told)]
        return done

    def _kept(self) -> str:
        assert self._sender is not None
        if self._plan is None:
            return "what it lacks is in the store and is sent later"
        there, experiment = recorded(self._plan, self.store), self._sender.experiment
        lacking = there - (experiment.completed() if experiment else set())
        return f"what it lacks ({len(lacking)} of {len(there)} runs) is in the store; send it with"
