"""How it is sent: a study's experiment in MLflow, its parent run and one child per run id."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.plan import Plan, Run
from orchestrator.store import Record, Store
from orchestrator.study import Study
from orchestrator.tracking.client import own_database, writing_client
from orchestrator.tracking.content import (
    STATUSES,
    Point,
    clean_params,
    live_points,
    ms,
    now_ms,
    record_points,
    record_tags,
    run_name,
    run_tags,
    seal_of,
    source_tags,
    study_name,
    study_tags,
)
from orchestrator.tracking.uploads import tell_study
from trainables.base import Progress

FLUSH_ROWS, FLUSH_S = 50, 3.0
"""Measurements are sent in batches: a call costs as much as fifty rows."""
BATCH = 1000
"""The most metrics that one call may carry."""


@dataclass
class Child:
    """A run of MLflow's. `logged` holds what it has, as (metric, step); None: not looked yet.

    `waiting` and `params` are still to be sent; `sealed` says from which record it was completed, if it was.
    """

    id: str
    status: str
    sealed: str = ""
    logged: set[tuple[str, int]] | None = None
    waiting: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    flushed_s: float = field(default_factory=time.monotonic)


class Experiment:
    """The study's experiment, used by one thread only."""

    def __init__(self, study: Study, store: Store, uri: str) -> None:
        self.study, self.store, self.uri = study, store, uri
        self.client = writing_client(uri)
        self.id = self._find_experiment()
        self.parent = self._find_parent()
        self.children = self._find_children()
        for child in self.children.values():
            if child.status == "RUNNING":
                self._end(child, "killed")
        self.client.update_run(self.parent, status="RUNNING")

    # -- events -----------------------------------------------------------------------------------------

    def start(self, run: Run, attempt: int) -> None:
        """Open the run's child: a new one, or the one that an earlier attempt left."""
        child = self.children.get(run.id)
        if child is not None and child.sealed.startswith("done"):
            self.client.delete_run(child.id)  # made again on purpose: its old numbers are not this run's
            child = None
        if child is None:
            child = self.children[run.id] = self._create(run, now_ms())
        self._send(child, {"attempt": str(attempt), "status": "running"})
        if child.status != "RUNNING":
            self.client.update_run(child.id, status="RUNNING")
            child.status = "RUNNING"

    def measure(self, run: Run, progress: Progress, time_ms: int) -> None:
        """Keep one row until its batch is full."""
        if run.id not in self.children:
            self.start(run, 1)
        child = self.children[run.id]
        child.waiting += live_points(progress, time_ms)

    def finish(self, run: Run, record: Record | None) -> None:
        """Complete the run's child from its record; without one the run was stopped."""
        child = self.children.get(run.id)
        if record is not None:
            self._complete(run, record)
        elif child is not None:
            self._end(child, "stopped")

    def flush(self, *, due_only: bool) -> None:
        """Send the batches that are full or old; all of them are old when there is nothing else to do."""
        now = time.monotonic()
        for child in self.children.values():
            is_due = len(child.waiting) >= FLUSH_ROWS or now - child.flushed_s > FLUSH_S
            if child.waiting and (is_due or not due_only):
                self._send(child)

    def sync(self, plan: Plan, store: Store, report: Path | None) -> None:
        """Complete every child whose record MLflow does not have as it is."""
        records = store.records(run.id for run in plan.runs)
        for run in plan.runs:
            child, record = self.children.get(run.id), records.get(run.id)
            if record is not None and (child is None or child.sealed != seal_of(record)):
                self._complete(run, record)
        told = {run.data.tags["run_id"]: run for run in self._found_children() if "run_id" in run.data.tags}
        tell_study(self.client, plan, store, parent=self.parent, children=told, report=report)

    def close(self) -> None:
        """Send what waits; close the children of runs that are not over, and the parent with what it came to."""
        self.flush(due_only=False)
        for child in self.children.values():
            if child.status == "RUNNING":
                self._end(child, "stopped")
        ended = {child.status for child in self.children.values()}
        status = next((bad for bad in ("KILLED", "FAILED") if bad in ended), "FINISHED")
        self.client.set_terminated(self.parent, status)

    # -- children ---------------------------------------------------------------------------------------

    def _create(self, run: Run, start_ms: int) -> Child:
        tags = {"mlflow.parentRunId": self.parent, **run_tags(self.study, run), "status": "running"}
        made = self.client.create_run(self.id, start_time=start_ms, tags=tags, run_name=run_name(run))
        return Child(made.info.run_id, "RUNNING", logged=set(), params=clean_params(self.study, run))

    def _complete(self, run: Run, record: Record) -> None:
        """Log what the child lacks of the record, and close it."""
        child = self.children.get(run.id)
        if child is not None and child.sealed.startswith("done"):
            self.client.delete_run(child.id)
            child = None
        if child is None:
            child = self.children[run.id] = self._create(run, ms(record.provenance.started))
        child.waiting += record_points(record)
        self._end(child, record.status, ms(record.provenance.finished), seal=seal_of(record), tags=record_tags(record))

    def _send(self, child: Child, tags: Mapping[str, str] | None = None) -> None:
        """Log those waiting measurements that the child does not have (the first value of a step stays), then `tags`.

        One call, as a rule: each costs several commits, and MLflow writes the tags of a call after its metrics.
        """
        if child.logged is None:
            child.logged = set(self._logged(child.id))
        new: dict[tuple[str, int], Point] = {}
        for point in child.waiting:
            if (point[0], point[3]) not in child.logged:
                new.setdefault((point[0], point[3]), point)
        points = list(new.values())
        while len(points) > BATCH:
            self._log(child.id, metrics=points[:BATCH])
            points = points[BATCH:]
        self._log(child.id, metrics=points, params=child.params, tags=tags)
        child.logged |= set(new)
        child.waiting, child.params, child.flushed_s = [], {}, time.monotonic()

    def _end(
        self,
        child: Child,
        status: str,
        end_ms: int | None = None,
        *,
        seal: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._send(child, {**(tags or {}), "status": status, "record": seal})
        child.status, child.sealed = STATUSES.get(status, "KILLED"), seal
        self.client.set_terminated(child.id, child.status, end_ms)

    def _log(
        self,
        run_id: str,
        *,
        metrics: Iterable[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self.client.log_batch(
            run_id,
            metrics=[Metric(*point) for point in metrics],
            params=[Param(name, value) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in (tags or {}).items()],
        )

    def _logged(self, run_id: str) -> Iterator[tuple[str, int]]:
        for name in self.client.get_run(run_id).data.metrics:
            for metric in self.client.get_metric_history(run_id, name):
                yield name, metric.step

    # -- the experiment and its parent ------------------------------------------------------------------

    def _find_experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.study.name)
        if found is None:
            return str(self.client.create_experiment(self.study.name, artifact_location=self._artifacts()))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _artifacts(self) -> str | None:
        """Return where artefacts of MLflow's go: beside our own database; a server knows its own place."""
        database = own_database(self.uri)
        return None if database is None else str(database.parent / "mlartifacts")

    def _find_parent(self) -> str:
        tags = {**study_tags(self.study), **self._owner()}
        found = self._search(" and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items()))
        for run in found:
            return str(run.info.run_id)
        tags |= {"mlflow.note.content": self.study.description, **source_tags()}
        return str(self.client.create_run(self.id, tags=tags, run_name=study_name(self.study)).info.run_id)

    def _owner(self) -> dict[str, str]:
        """Return the tag that keeps two stores apart on one server; a database of our own needs none, and may move."""
        return {} if own_database(self.uri) else {"store": f"{socket.gethostname()}:{self.store.root}"}

    def _found_children(self) -> Iterator[Any]:
        return self._search(f"tags.`mlflow.parentRunId` = '{self.parent}'")

    def _find_children(self) -> dict[str, Child]:
        return {
            run.data.tags["run_id"]: Child(run.info.run_id, run.info.status, run.data.tags.get("record", ""))
            for run in self._found_children()
            if "run_id" in run.data.tags
        }

    def _search(self, condition: str) -> Iterator[Any]:
        token = None
        while True:
            page = self.client.search_runs([self.id], condition, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return
