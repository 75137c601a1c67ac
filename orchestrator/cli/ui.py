"""`ui`: MLflow's own UI on this store, on 127.0.0.1."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from orchestrator.cli.options import add_store, open_store, views_folder


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("ui", help="MLflow's UI on this store, on 127.0.0.1", description=__doc__)
    add_store(parser)
    parser.add_argument("--port", type=int, default=5000, help="the port (default: 5000)")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Become MLflow's server; it ends as any server does, with Ctrl-C."""
    from orchestrator.errors import UserError

    database = views_folder(options, open_store(options)) / "mlflow.db"
    if not database.is_file():
        raise UserError(f"no MLflow database {database}; make one with: python -m orchestrator sweep smoke")
    uri = f"sqlite:///{database}"
    sys.stderr.write(f"http://127.0.0.1:{options.port}  ({uri})\n")
    command = ["-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(options.port)]
    os.execv(sys.executable, [sys.executable, *command])  # noqa: S606 (no shell, our own arguments)
