"""What a view (report, MLflow, Optuna) was last built from, so that nothing is built twice.

A view is current while the records behind it are the ones it was built from. That is read off the names, sizes
and times of the record files, without parsing them and without any of the views' libraries: a sweep that finds
everything done answers at once.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from orchestrator.durable import write_atomically
from orchestrator.plan import Plan
from orchestrator.store import Store

PENDING = "pending"


def record_states(plan: Plan, store: Store) -> dict[str, str]:
    """Return, for every run of the plan, what identifies its newest record: folder, size and time; or `pending`."""
    return {run.id: _state(store, run.id) for run in plan.runs}


def _state(store: Store, run_id: str) -> str:
    for folder in (store.artefact(run_id), *_failures(store.failures / run_id)):
        with contextlib.suppress(FileNotFoundError):
            about = (folder / "record.json").stat()
            return f"{folder.parent.name}/{folder.name} {about.st_size} {about.st_mtime_ns}"
    return PENDING


def _failures(folder: Path) -> list[Path]:
    """Return the folders of failed attempts, newest first, as `Store.record` reads them."""
    try:
        numbered = [path for path in folder.iterdir() if path.name.isdigit()]
    except FileNotFoundError:
        return []
    return sorted(numbered, key=lambda path: int(path.name), reverse=True)


def read_marker(path: Path) -> dict[str, str]:
    """Return the states a view was last built from; empty where there is no marker or it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        marker = json.loads(path.read_text())
        return marker if isinstance(marker, dict) else {}
    return {}


def write_marker(path: Path, states: Mapping[str, str]) -> None:
    """Write the states a view has just been built from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(states, indent=0), durable=False)
