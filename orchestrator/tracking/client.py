"""Where tracking goes: MLflow's client for a server, or for a database of our own beside the store."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.store import Store

if TYPE_CHECKING:
    import sqlite3

OURS = "sqlite:///"
"""What the address of a database of our own begins with."""
ANSWER_S = 10
"""Seconds that a server may take to answer."""


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
    """Return MLflow's client for writing; prepares our own database once, and makes a server's client fail soon.

    MLflow's own retries are off (a run whose creation was carried out although the answer was lost would be created
    again, and nobody would look first); a request waits ANSWER_S, or what MLFLOW_HTTP_REQUEST_TIMEOUT says.
    """
    database = own_database(uri)
    if database is not None:
        prepare_database(database)
    else:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(ANSWER_S))
    return reading_client(uri)


def heard(client: Any, asking: Callable[[], None], answered: Callable[[], None]) -> Any:
    """Return a client that says so whenever it is about to ask (which may raise), and whenever it was answered."""
    return _Heard(client, asking, answered)


class _Heard:
    def __init__(self, client: Any, asking: Callable[[], None], answered: Callable[[], None]) -> None:
        self._client, self._asking, self._answered = client, asking, answered

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def calling(*arguments: Any, **options: Any) -> Any:
            self._asking()
            answer = call(*arguments, **options)
            self._answered()
            return answer

        return calling


def shown(text: str) -> str:
    """Return an address, or a message with addresses in it, without user names and passwords."""
    return re.sub(r"//[^/\s]*@", "//", text)


def prepare_database(path: Path) -> None:
    """Set our own database to write-ahead logging, a lasting property: a commit costs one flush instead of three.

    Where the database has moved with its store, the artefacts that lie beside it are found where they are now.
    """
    import sqlite3

    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            _move_artifacts(connection, str(artifacts_beside(path)))


def artifacts_beside(database: Path) -> Path:
    """Return the folder of the artefacts of a database of our own."""
    return database.parent / "mlartifacts"


def _move_artifacts(connection: sqlite3.Connection, folder: str) -> None:
    known = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    for (before,) in known:
        if before and before.endswith("/mlartifacts") and before != folder:
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (folder, before)
            )
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE substr(artifact_uri, 1, ?) = ?",
                (folder, len(before) + 1, len(before) + 1, f"{before}/"),
            )
