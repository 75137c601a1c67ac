"""Whether MLflow has been told all that the records say, known from markers in the store: without mlflow."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path

from orchestrator.durable import write_atomically
from orchestrator.freshness import PENDING, read_marker, record_states, write_marker
from orchestrator.plan import Plan
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.tracking.client import own_database, tracking_uri

FOLDER = "tracked"


def is_synced(plan: Plan, store: Store, *, views: Path | None = None, report: Path | None = None) -> bool:
    """Say whether MLflow has been told of exactly these records and this report; needs no mlflow to know."""
    uri = tracking_uri(store, views)
    database = own_database(uri)
    if database is not None and not database.is_file():
        return False
    return read_marker(_marker(plan.study, store, uri)) == states(plan, store, report)


def was_cut(study: Study, store: Store, *, views: Path | None = None) -> bool:
    """Say whether nobody has noted of MLflow that it has been told all: its last writer was cut, or this is a copy."""
    return not _marker(study, store, tracking_uri(store, views)).is_file()


def mark_open(study: Study, store: Store, uri: str) -> None:
    """Note that MLflow is being written to: should that be cut, it has to be looked at again."""
    _marker(study, store, uri).unlink(missing_ok=True)


def mark_synced(study: Study, store: Store, uri: str, told: dict[str, str]) -> None:
    """Note what MLflow has been told (see `states`)."""
    write_marker(_marker(study, store, uri), told)


def states(plan: Plan, store: Store, report: Path | None) -> dict[str, str]:
    """Return what identifies every record of the plan and its report: equal states need no telling."""
    return {**record_states(plan, store), "report": report_state(report) if report else PENDING}


def recorded(plan: Plan, store: Store) -> set[str]:
    """Return the ids of the plan's runs that have a record, finished or failed."""
    return {run_id for run_id, state in record_states(plan, store).items() if state != PENDING}


def store_id(store: Store) -> str:
    """Return what names this store on a server, made once: a store that was moved or copied is still the same."""
    path = store.root / FOLDER / "store"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, uuid.uuid4().hex)
    return path.read_text().strip()


def report_state(report: Path) -> str:
    """Return what tells this report from any other, or `pending`."""
    try:
        return hashlib.sha256((report / "state.json").read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        return PENDING


def _marker(study: Study, store: Store, uri: str) -> Path:
    key = hashlib.sha256(json.dumps([uri, study.name, study.scale]).encode()).hexdigest()[:12]
    return store.root / FOLDER / f"{study.name}-{key}.json"
