"""The driver's side of a sweep, the same for every backend: what may start now, and who is told what happened.

It joins the schedule, which knows no store, to the runs, the store and the observer, and keeps the promises of
`cluster.base`: nothing starts before what it needs is `done`, and the observer hears of an end before any dependant
is offered. What the observer has come to plan by then joins the schedule.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence

from cluster.base import Job, Observer, Outcome
from cluster.ending import keep_killed
from cluster.rooms import Demand, Resources
from cluster.schedule import Schedule, Task
from orchestrator.plan import Run
from orchestrator.store import Store
from trainables.base import Progress

TRIES = 3
"""Workers that may be lost under one run before it is given up as `killed`."""


class Dispatch:
    """What is offered, runs and has ended, in one sweep."""

    def __init__(
        self,
        runs: Sequence[Run],
        store: Store,
        observer: Observer,
        nodes: Mapping[str, Resources],
        demand: Callable[[Run], Demand],
    ) -> None:
        """Take the runs in dependency order; runs whose inputs neither exist nor are among them are skipped."""
        self.store, self.observer, self.demand = store, observer, demand
        self.runs: dict[str, Run] = {}
        self.over: dict[str, str] = {}
        self.hosts: dict[str, str] = {}
        self.losses: dict[str, int] = {}
        self.schedule = Schedule([], nodes)
        self.skipped = self._take(runs)

    def begin(self) -> None:
        """Tell the observer of the runs that can never start."""
        self._skip(self.skipped)

    def add(self, runs: Sequence[Run]) -> None:
        """Take more runs, in dependency order; those whose inputs will never be there are skipped at once."""
        if runs:
            self._skip(self._take(runs))

    def next(self) -> Job | None:
        """Take the run that should start now; None if none should until something ends."""
        while (task := self.schedule.next()) is not None:
            if not self.store.is_finished(task.id):
                return Job(self.runs[task.id], self.store.root)
            self.ended(self._found(self.runs[task.id]))
        return None

    @property
    def is_exhausted(self) -> bool:
        """Whether, once `next` has returned None, nothing will ever start again."""
        return not self.schedule.running

    def stranded(self) -> list[Run]:
        """Return runs that could start but for the nodes, which have become too few or too small for them."""
        return [self.runs[task.id] for task in self.schedule.stranded()]

    def resize(self, nodes: Mapping[str, Resources]) -> None:
        """Take what each node has now, where nodes have come or gone."""
        self.schedule.resize(nodes)

    def started(self, run_id: str, attempt: int, host: str, nodes: Sequence[str] = ()) -> None:
        """Note that a run has begun, and on which node each of its workers is, where the backend can tell."""
        self.hosts[run_id] = host
        if nodes:
            self.schedule.moved(run_id, nodes)
        self.observer.started(self.runs[run_id], attempt, host)

    def progressed(self, run_id: str, progress: Progress) -> None:
        """Pass on a step."""
        self.observer.progressed(self.runs[run_id], progress)

    def ended(self, outcome: Outcome) -> None:
        """Tell the observer how a run ended, then let its dependants follow, or skip them."""
        run = outcome.run
        if outcome.status == "lost":
            self.lost(run.id, outcome.because)
            return
        if outcome.status == "superseded":
            if not self.store.is_finished(run.id):
                self.lost(run.id, outcome.because)
                return
            outcome = self._found(run)
        self.observer.finished(outcome)
        if outcome.status == "stopped":
            self.schedule.left(run.id)
            return
        self.over[run.id] = f"needs {run.id}, which {_ended_how(outcome.status)}" if outcome.status != "done" else ""
        dropped = self.schedule.ended(run.id, done=outcome.status == "done")
        self._skip(dict.fromkeys(dropped, self.over[run.id]))
        self.add(self.observer.planned())

    def lost(self, run_id: str, because: str) -> None:
        """Let a run whose worker is gone wait for another one, or give it up."""
        self.losses[run_id] = self.losses.get(run_id, 0) + 1
        if self.store.is_finished(run_id):
            self.ended(self._found(self.runs[run_id]))
        elif self.losses[run_id] < TRIES:
            self.schedule.again(run_id)
        else:
            host = self.hosts.get(run_id, socket.gethostname())
            self.ended(keep_killed(Job(self.runs[run_id], self.store.root), because, host))

    def _found(self, run: Run) -> Outcome:
        record = self.store.record(run.id)
        assert record is not None
        return Outcome(run, record.status, record, log=self.store.artefact(run.id) / "log.txt")

    def _take(self, runs: Sequence[Run]) -> dict[str, str]:
        """Give the schedule what can still come to run; return why, by id, for the others."""
        self.runs |= {run.id: run for run in runs}
        skipped = self._without_inputs(runs)
        self.schedule.add([self._task(run) for run in runs if run.id not in skipped])
        return skipped

    def _skip(self, reasons: Mapping[str, str]) -> None:
        self.over |= reasons
        for run_id, because in reasons.items():
            self.observer.finished(Outcome(self.runs[run_id], "skipped", because=because))

    def _task(self, run: Run) -> Task:
        needs = tuple(dict.fromkeys(source for source in run.inputs.values() if source in self.runs))
        shares = run.place.workers * run.place.cpus
        return Task(run.id, needs, self.demand(run), run.cost_s / shares, run.behind_s)

    def _without_inputs(self, runs: Sequence[Run]) -> dict[str, str]:
        """Return why, by id, for the runs that need what is neither `done` in the store nor going to be."""
        reasons: dict[str, str] = {}
        for run in runs:
            for source in run.inputs.values():
                because = reasons.get(source) or self.over.get(source)
                if because is None and source not in self.runs and (how := self._absence(source)):
                    because = f"needs {source}, which {how}"
                if because:
                    reasons.setdefault(run.id, because)
        return reasons

    def _absence(self, run_id: str) -> str:
        record = self.store.record(run_id)
        if record is None:
            return "is not in the store"
        return "" if record.status == "done" else _ended_how(record.status)


def _ended_how(status: str) -> str:
    return WORDS.get(status, status)


WORDS = {"oom": "ran out of memory", "killed": "was killed", "pruned": "was pruned", "skipped": "was skipped"}
"""How a run ended, after "which"."""
