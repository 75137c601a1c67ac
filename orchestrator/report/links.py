"""runs/: readable names that link to artefacts, so that nobody has to look up an id."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from orchestrator.plan import Plan
from orchestrator.store import Store


def write_links(plan: Plan, store: Store, folder: Path) -> None:
    """Fill `folder` with relative links: `svd-r16-s2` to its artefact, `svd-r16-s3.failed` to its last failure."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for run in plan.runs:
        name = re.sub(r"[^A-Za-z0-9_.=-]+", "-", run.name or run.id)
        target, ending = _folder(store, run.id)
        if target is None:
            continue
        if (folder / f"{name}{ending}").is_symlink():
            name = f"{name}.{run.id.rpartition('-')[2]}"
        (folder / f"{name}{ending}").symlink_to(os.path.relpath(target, folder))


def _folder(store: Store, run_id: str) -> tuple[Path | None, str]:
    if store.is_finished(run_id):
        return store.artefact(run_id), ""
    attempts = [path for path in (store.failures / run_id).glob("[0-9]*") if path.name.isdigit()]
    last = max(attempts, key=lambda path: int(path.name), default=None)
    return last, ".failed"
