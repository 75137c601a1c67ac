"""Where tracking goes: MLflow's client for a server, or for a database of our own beside the store."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

from orchestrator.store import Store

OURS = "sqlite:///"
"""What the address of a database of our own begins with."""


def tracking_uri(store: Store, views: Path | None = None) -> str:
    """Return where tracking goes: MLFLOW_TRACKING_URI, else mlflow.db in the folder of views, the store by default."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(views or store.root).absolute() / 'mlflow.db'}"


def own_database(uri: str) -> Path | None:
    """Return the file of a database of our own, or None for a server's address."""
    return Path(uri.removeprefix(OURS)) if uri.startswith(OURS) else None


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


def writing_client(uri: str) -> Any:
    """Return MLflow's client for writing; prepares our own database once."""
    database = own_database(uri)
    if database is not None:
        _prepare_database(database)
    return reading_client(uri)


def _prepare_database(path: Path) -> None:
    """Set our own database to write-ahead logging, a lasting property: a commit costs one flush instead of three."""
    import sqlite3

    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
