"""How it is sent: a study's experiment in MLflow, its parent run and one child per run id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.notes import read_progress
from orchestrator.plan import Plan, Run
from orchestrator.record import Record
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.tracking import finding
from orchestrator.tracking.child import Child
from orchestrator.tracking.client import artifacts_beside, own_database
from orchestrator.tracking.content import (
    clean_params,
    live_points,
    ms,
    now_ms,
    record_points,
    record_tags,
    run_name,
    run_tags,
    seal_of,
)
from orchestrator.tracking.current import store_id
from orchestrator.tracking.uploads import tell_study
from trainables.base import Progress

FLUSH_POINTS, FLUSH_S = 500, 5.0
"""Measurements are sent in batches, a full one or after seconds: a call costs as much as some 300 measurements."""


class Experiment:
    """The study's experiment, used by one thread only.

    Whatever raises may be called again after `look_again`: it goes on from what MLflow has by then.
    """

    def __init__(self, study: Study, store: Store, uri: str, client: Any) -> None:
        """Find or make the experiment and its parent; nothing runs any more that an earlier driver left running."""
        self.study, self.store, self.uri, self.client = study, store, uri, client
        self.children: dict[str, Child] = {}
        self.look_again()
        for child in self.children.values():
            if child.status == "RUNNING":
                child.end("killed")

    def look_again(self) -> None:
        """Find out what is there: the server was away, and the last request may have been carried out or not."""
        database = own_database(self.uri)
        artifacts = None if database is None else str(artifacts_beside(database))
        self.id = finding.find_experiment(self.client, self.study.name, artifacts)
        # A server serves several stores; a database of our own may move with its store and needs no owner.
        owner = {} if database else {"store": store_id(self.store)}
        self.parent = finding.find_parent(self.client, self.id, self.study, owner)
        found = finding.find_children(self.client, self.id, self.parent)
        self.children = {run_id: self._known(run_id, run) for run_id, run in found.items()}
        self.client.update_run(self.parent, status="RUNNING")

    def _known(self, run_id: str, found: object) -> Child:
        """Return a child as MLflow has it, with what we know of it beside."""
        child, before = Child.found(self.client, found), self.children.get(run_id)
        if before is not None:
            child.waiting, child.params = before.waiting, before.params
        return child

    # -- events -----------------------------------------------------------------------------------------

    def start(self, run: Run, attempt: int) -> None:
        """Open the run's child: the one that an attempt without a record left, else a new one."""
        child = self._open_child(run, "") or self._begun_again(run, attempt)
        self._describe(child, run)
        child.send({"attempt": str(attempt), "status": "running", "record": ""})
        child.sealed = ""
        child.reopen()

    def measure(self, run: Run, progress: Progress, time_ms: int) -> None:
        """Keep a row until there are enough for a batch."""
        if run.id not in self.children:
            self.start(run, 1)
        child = self.children[run.id]
        child.measure(live_points(progress, time_ms))
        if len(child.waiting) >= FLUSH_POINTS:
            child.send()

    def finish(self, run: Run, record: Record | None) -> None:
        """Complete the run's child from its record; without one the run was stopped."""
        child = self.children.get(run.id)
        if record is not None:
            self._complete(run, record)
        elif child is not None:
            child.end("stopped")

    def flush(self) -> None:
        """Send what waits."""
        for child in self.children.values():
            if child.waiting:
                child.send()

    def sync(self, plan: Plan, store: Store, report: Path | None) -> None:
        """Complete every child whose record MLflow does not have as it is."""
        records = store.records(run.id for run in plan.runs)
        for run in plan.runs:
            child, record = self.children.get(run.id), records.get(run.id)
            if record is not None and not (child and child.is_complete(seal_of(record))):
                self._complete(run, record)
        children = finding.find_children(self.client, self.id, self.parent)
        tell_study(self.client, plan, store, parent=self.parent, children=children, report=report)

    def close(self) -> None:
        """Send what waits; close the children of runs that are not over, and the parent with what it came to."""
        for child in self.children.values():
            if child.status == "RUNNING":
                child.end(child.sealed.partition(" ")[0] or "stopped", seal=child.sealed)
        ended = {child.status for child in self.children.values()}
        status = next((bad for bad in ("KILLED", "FAILED") if bad in ended), "FINISHED")
        self.client.set_terminated(self.parent, status)

    def completed(self) -> set[str]:
        """Return the ids of the runs that MLflow has as a record says."""
        return {run_id for run_id, child in list(self.children.items()) if child.sealed}

    # -- children ---------------------------------------------------------------------------------------

    def _open_child(self, run: Run, seal: str) -> Child | None:
        """Return the run's child, None where there is none; one with another record is deleted.

        What an attempt came to is at step 0, where the first value stays: those numbers are not the next attempt's.
        """
        child = self.children.get(run.id)
        if child is None or child.sealed in ("", seal):
            return child
        self.client.delete_run(child.id)
        del self.children[run.id]
        return None

    def _begun_again(self, run: Run, attempt: int) -> Child:
        """Return a new child, with the rows that an attempt which resumes has of those before."""
        child = self._create(run, now_ms())
        rows = read_progress(self.store.work / run.id / str(attempt)).get("rows", []) if attempt > 1 else []
        for row in rows:
            measured = {name: value for name, value in row.items() if name != "step"}
            child.measure(live_points(Progress(int(row["step"]), 0, measured), now_ms()))
        return child

    def _create(self, run: Run, start_ms: int) -> Child:
        tags = {"mlflow.parentRunId": self.parent, **run_tags(self.study, run), "status": "running"}
        made = self.client.create_run(self.id, start_time=start_ms, tags=tags, run_name=run_name(run))
        child = Child(self.client, made.info.run_id, "RUNNING", logged=set())
        self.children[run.id] = child
        return child

    def _describe(self, child: Child, run: Run) -> None:
        """Add what is said of a run once; MLflow may have the run without it, if a request was lost between."""
        if not child.is_described:
            child.params = clean_params(self.study, run)

    def _complete(self, run: Run, record: Record) -> None:
        """Log what the child lacks of the record, and close it."""
        seal = seal_of(record)
        child = self._open_child(run, seal) or self._create(run, ms(record.provenance.started))
        self._describe(child, run)
        child.measure(record_points(record))
        child.end(record.status, ms(record.provenance.finished), seal=seal, tags=record_tags(record))
