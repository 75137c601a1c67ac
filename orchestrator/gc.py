"""What of a store can go: attempts of finished runs, and weights that can be made again. Records always stay."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store import Store

WEIGHTS = "*.safetensors"


@dataclass(frozen=True)
class Garbage:
    """A path that can go, its size in bytes, and why."""

    path: Path
    size: int
    reason: str


def collect(store: Store, *, weights: bool) -> list[Garbage]:
    """Return what can go: leftovers of attempts and, with `weights`, the weights of finished runs.

    A weight that is dropped is noticed when a new run needs it, and its run is made again.
    """
    attempts = sorted(store.work.iterdir()) if store.work.is_dir() else []
    over = [folder for folder in attempts if store.is_finished(folder.name)]
    found = [Garbage(folder, size(folder), "attempts of a finished run") for folder in over]
    for run_id in store.ids() if weights else ():
        files = sorted(store.artefact(run_id).rglob(WEIGHTS))
        found += [Garbage(path, path.stat().st_size, "weights; the record stays") for path in files]
    return found


def drop(items: Iterable[Garbage]) -> None:
    """Delete what was collected."""
    for item in items:
        if item.path.is_dir():
            shutil.rmtree(item.path, ignore_errors=True)
        else:
            item.path.unlink(missing_ok=True)


def size(folder: Path) -> int:
    """Return the bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
