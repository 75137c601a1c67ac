"""Runs in progress, as their workers last said: read from the store, so it works from any machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.notes import read_progress
from orchestrator.store import Store


@dataclass(frozen=True)
class Live:
    """An unfinished attempt: its last step, the last training loss, and when it was heard of (Unix time)."""

    run_id: str
    attempt: int
    step: int
    total: int
    loss: float | None
    heard_at: float
    log: str


def live(store: Store) -> list[Live]:
    """Return the newest attempt of every unfinished run that has begun, by id; one that has failed is none."""
    folders = sorted(store.work.iterdir()) if store.work.is_dir() else []
    attempts = [max(numbered, key=lambda path: int(path.name)) for folder in folders if (numbered := _attempts(folder))]
    return [_live(attempt) for attempt in attempts if not _has_failed(store, attempt)]


def _has_failed(store: Store, attempt: Path) -> bool:
    return (store.failures / attempt.parent.name / attempt.name / "record.json").is_file()


def _attempts(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def _live(attempt: Path) -> Live:
    about = read_progress(attempt)
    losses = [row["loss"] for row in about.get("rows", []) if "loss" in row]
    path = attempt / "progress.json"
    return Live(
        run_id=attempt.parent.name,
        attempt=int(attempt.name),
        step=about.get("step", 0),
        total=about.get("total", 0),
        loss=losses[-1] if losses else None,
        heard_at=(path if path.is_file() else attempt).stat().st_mtime,
        log=str(attempt / "output" / "log.txt"),
    )
