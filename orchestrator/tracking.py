"""Records and live metrics to MLflow: a view of the store that can always be rebuilt from it.

One parent run per study, one child per run id, found again by its tag and so never doubled; statuses true after any
crash; the step axis is the training step. There is one writer, on a thread of its own: the sweep never waits for
MLflow, whose import alone takes seconds, and does not fail because MLflow does. What could not be written is
completed from the records by the next command.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestrator.freshness import PENDING, read_marker, record_states, write_marker
from orchestrator.plan import Plan, Run
from orchestrator.store import Record, Store
from orchestrator.study import Study, setting_of
from trainables.base import Progress

if TYPE_CHECKING:
    from cluster.base import Outcome

Point: TypeAlias = tuple[str, float, int, int]
"""A metric's name, value, time in ms and step."""

FLUSH_ROWS, FLUSH_S = 50, 3.0
"""Measurements are sent in batches: a call costs as much as fifty rows."""
BATCH = 1000
"""The most metrics that one call may carry."""
STATUSES = {"done": "FINISHED", "diverged": "FINISHED", "pruned": "FINISHED", "oom": "FAILED", "failed": "FAILED"}
"""Ours -> MLflow's; whatever else ended a run killed it. The tag `status` keeps ours."""
NOISE = re.compile(r"sha256|digest|fingerprint|hash")


def tracking_uri(store: Store, views: Path | None = None) -> str:
    """Return where tracking goes: MLFLOW_TRACKING_URI, else mlflow.db in the folder of views, the store by default."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(views or store.root).absolute() / 'mlflow.db'}"


def is_synced(plan: Plan, store: Store, *, views: Path | None = None, report: Path | None = None) -> bool:
    """Say whether MLflow has been told of exactly these records and this report; needs no mlflow to know."""
    uri = tracking_uri(store, views)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return False
    return read_marker(_marker(plan.study, store, uri)) == _states(plan, store, report)


class Tracker:
    """The one writer to MLflow. Every method returns at once; `close` waits until all is written.

    `problem` says in one line what stopped the writing, if anything did.
    """

    def __init__(self, study: Study, store: Store, *, views: Path | None = None) -> None:
        """Name the study and where it is tracked; nothing is imported, opened or created before the first event."""
        self.study, self.store, self.views = study, store, views
        self.problem: str | None = None
        self._queue: queue.SimpleQueue[Callable[[_Experiment], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def started(self, run: Run, attempt: int = 1) -> None:
        """A run has begun, or begun again."""
        self._put(lambda experiment: experiment.start(run, attempt))

    def progressed(self, run: Run, progress: Progress) -> None:
        """A run has measured something at a step."""
        if progress.metrics:
            now = _now()
            self._put(lambda experiment: experiment.measure(run, progress, now))

    def finished(self, outcome: Outcome) -> None:
        """A run has ended, well or not."""
        if outcome.status not in ("skipped", "superseded"):
            self._put(lambda experiment: experiment.finish(outcome.run, outcome.record))

    def sync(self, plan: Plan, *, report: Path | None = None) -> None:
        """Complete whatever MLflow lacks of the plan's records, and upload the report if it has changed."""

        def complete(experiment: _Experiment) -> None:
            states = _states(plan, self.store, report)
            experiment.sync(plan, self.store, report)
            write_marker(_marker(self.study, self.store, experiment.uri), states)

        self._put(complete)

    def close(self) -> str | None:
        """Write what is waiting and end; return what went wrong, in one line, or None."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        return self.problem

    def _put(self, event: Callable[[_Experiment], None]) -> None:
        if self.problem is not None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="mlflow", daemon=True)
            self._thread.start()
        self._queue.put(event)

    def _write(self) -> None:
        """Take events off the queue until it is closed; runs on the thread."""
        try:
            experiment = _Experiment(self.study, self.store, tracking_uri(self.store, self.views))
            while (event := self._queue.get()) is not None:
                event(experiment)
                experiment.flush(due_only=not self._queue.empty())
            experiment.close()
        # MLflow is a view: a server that is gone must not stop a sweep whose records are safe (contract C2).
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.problem = f"MLflow: {type(error).__name__}: {lines[0]}; the next command completes it"


@dataclass
class _Child:
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


class _Experiment:
    """The study's experiment, used by one thread only."""

    def __init__(self, study: Study, store: Store, uri: str) -> None:
        self.study, self.store, self.uri = study, store, uri
        self.client = _client(uri)
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
            child = self.children[run.id] = self._create(run, _now())
        self._send(child, {"attempt": str(attempt), "status": "running"})
        if child.status != "RUNNING":
            self.client.update_run(child.id, status="RUNNING")
            child.status = "RUNNING"

    def measure(self, run: Run, progress: Progress, time_ms: int) -> None:
        """Keep one row until its batch is full."""
        if run.id not in self.children:
            self.start(run, 1)
        child = self.children[run.id]
        child.waiting += [(name, value, time_ms, progress.step) for name, value in progress.metrics.items()]

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
            if record is not None and (child is None or child.sealed != _seal(record)):
                self._complete(run, record)
        if report is not None:
            self._upload(report)

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

    def _create(self, run: Run, start_ms: int) -> _Child:
        arm = self.study.comparison.arm if self.study.comparison else ""
        tags = {
            "mlflow.parentRunId": self.parent,
            "study": self.study.name,
            "scale": self.study.scale,
            "stage": run.stage,
            "purpose": run.purpose,
            "arm": str(run.labels.get(arm, "")),
            "run_id": run.id,
            "status": "running",
        }
        made = self.client.create_run(self.id, start_time=start_ms, tags=tags, run_name=run.name or run.id)
        return _Child(made.info.run_id, "RUNNING", logged=set(), params=clean_params(run))

    def _complete(self, run: Run, record: Record) -> None:
        """Log what the child lacks of the record, and close it."""
        started, finished = _ms(record.provenance.started), _ms(record.provenance.finished)
        child = self.children.get(run.id)
        if child is not None and child.sealed.startswith("done"):
            self.client.delete_run(child.id)
            child = None
        if child is None:
            child = self.children[run.id] = self._create(run, started)
        child.waiting += _points(record, started, finished)
        self._end(child, record.status, finished, seal=_seal(record))

    def _send(self, child: _Child, tags: Mapping[str, str] | None = None) -> None:
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

    def _end(self, child: _Child, status: str, end_ms: int | None = None, *, seal: str = "") -> None:
        self._send(child, {"status": status, "record": seal})
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
        if not self.uri.startswith("sqlite:///"):
            return None
        return str(Path(self.uri.removeprefix("sqlite:///")).parent / "mlartifacts")

    def _find_parent(self) -> str:
        tags = {"study": self.study.name, "scale": self.study.scale, "role": "study", **self._owner()}
        found = self._search(" and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items()))
        for run in found:
            return str(run.info.run_id)
        tags["mlflow.note.content"] = self.study.description
        name = f"{self.study.name} {self.study.scale}".strip()
        return str(self.client.create_run(self.id, tags=tags, run_name=name).info.run_id)

    def _owner(self) -> dict[str, str]:
        """Return the tag that keeps two stores apart on one server; a database of our own needs none, and may move."""
        is_ours = self.uri.startswith("sqlite:///")
        return {} if is_ours else {"store": f"{socket.gethostname()}:{self.store.root}"}

    def _find_children(self) -> dict[str, _Child]:
        found = self._search(f"tags.`mlflow.parentRunId` = '{self.parent}'")
        return {
            run.data.tags["run_id"]: _Child(run.info.run_id, run.info.status, run.data.tags.get("record", ""))
            for run in found
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

    def _upload(self, report: Path) -> None:
        """Put tables and figures on the parent; the links to artefacts stay where they are."""
        files = [path for path in report.glob("*") if path.is_file() and path.name != "state.json"]
        figures = [path for path in (report / "figures").glob("*") if path.is_file()]
        state = _report_state(report)
        if self.client.get_run(self.parent).data.tags.get("report") == state:
            return
        for path in sorted(files):
            self.client.log_artifact(self.parent, str(path))
        for path in sorted(figures):
            self.client.log_artifact(self.parent, str(path), artifact_path="figures")
        self.client.set_tag(self.parent, "report", state)


def clean_params(run: Run) -> dict[str, str]:
    """Return the run's settings and axis values as MLflow's params: plain values only, without hashes and gaps."""
    settings = {name: value for name, value in _flat(run.config.model_dump(mode="json")) if value not in (None, "")}
    axes = {setting_of(axis): value for axis, value in run.labels.items()}
    kept = {name: value for name, value in {**axes, **settings}.items() if not NOISE.search(name)}
    return {name: str(value) for name, value in sorted(kept.items()) if len(str(value)) <= 250}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _points(record: Record, started: int, finished: int) -> list[Point]:
    """Return a record's measurements: the history by step, then the final metrics at the last one.

    Records keep no time per step: times are spread evenly over the run.
    """
    rows = list(record.history_rows())
    last = max((int(row["step"]) for row in rows), default=0)
    points: list[Point] = []
    for row in rows:
        step = int(row["step"])
        time_ms = started + round((finished - started) * step / max(last, 1))
        points += [(name, float(value), time_ms, step) for name, value in row.items() if name != "step"]
    final = {name: value for name, value in record.metrics.items() if name not in record.history}
    return points + [
        (name, float(value), finished, last) for name, value in final.items() if isinstance(value, int | float)
    ]


def _seal(record: Record) -> str:
    """Return what tells this record from any other of the same run."""
    return f"{record.status} {record.provenance.attempt} {record.provenance.finished}"


def _states(plan: Plan, store: Store, report: Path | None) -> dict[str, str]:
    return {**record_states(plan, store), "report": _report_state(report) if report else PENDING}


def _report_state(report: Path) -> str:
    try:
        return hashlib.sha256((report / "state.json").read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        return PENDING


def _marker(study: Study, store: Store, uri: str) -> Path:
    key = hashlib.sha256(json.dumps([uri, study.name, study.scale]).encode()).hexdigest()[:12]
    return store.root / "tracked" / f"{study.name}-{key}.json"


def reading_client(uri: str) -> Any:
    """Return MLflow's client for reading what is there, without a word and without telemetry; creates nothing."""
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # "Creating initial MLflow database tables..."
    return MlflowClient(tracking_uri=uri)


def _client(uri: str) -> Any:
    """Return MLflow's client for writing; prepares our own database once."""
    if uri.startswith("sqlite:///"):
        _prepare_database(Path(uri.removeprefix("sqlite:///")))
    return reading_client(uri)


def _prepare_database(path: Path) -> None:
    """Set our own database to write-ahead logging, a lasting property: a commit costs one flush instead of three."""
    import sqlite3

    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _now() -> int:
    return round(time.time() * 1000)


def _ms(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)
