"""`ui`: MLflow's own UI on this store, on 127.0.0.1.

Its views are brought up to date first if they are behind the records, unless a sweep is at it. With a study, MLflow's
database is made from the records if there is none. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.cli.options import add_store, add_study, command_of, console, make_plan, open_store, views_folder
from orchestrator.errors import UserError
from orchestrator.signals import STOPPED_BY, listening

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.store import Store

HOST, PORT = "127.0.0.1", 5000


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("ui", help="MLflow's UI on this store, on 127.0.0.1", description=__doc__)
    add_study(parser, optional=True)
    add_store(parser)
    parser.add_argument("--port", type=int, default=PORT, help=f"the port (default: {PORT})")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Bring the views up to date, serve them, and say where each study is as soon as it can be looked at."""
    from orchestrator.tracking import server

    store = open_store(options)
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if server.is_remote(uri):
        raise UserError(f"runs are tracked at {uri} (MLFLOW_TRACKING_URI): open that; unset it for this store's own UI")
    views = views_folder(options, store)
    refuse_taken_port(options.port)
    if options.study:
        _update(options, store, views)
    database = views / "mlflow.db"
    if not database.is_file():
        again = command_of(argparse.Namespace(**{**vars(options), "study": "STUDY"}), "ui")
        raise UserError(f"no MLflow database {database}; make it of the records with: {again}")
    if not options.study:
        _complete_all(options, store, views)
    return _serve(database, options.port)


def refuse_taken_port(port: int) -> None:
    """Raise UserError if something listens there already, naming a port that is free."""
    if not 0 < port < 2**16:
        raise UserError(f"--port {port}: ports are numbers from 1 to 65535")
    if _is_free(port):
        return
    free = next((other for other in range(port + 1, min(port + 100, 2**16)) if _is_free(other)), None)
    way_out = f"; port {free} is free: --port {free}" if free else "; choose another with --port"
    raise UserError(f"port {port} of {HOST} is taken{way_out}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _update(options: argparse.Namespace, store: Store, views: Path) -> None:
    """Bring all views of a study up to date with the records."""
    from orchestrator.tracking import is_synced
    from orchestrator.views import Views

    plan = make_plan(options, store)
    made = Views(plan, store, views)
    if not any(store.record(run.id) for run in plan.runs):
        raise UserError(f"{plan.study.name} (scale {plan.study.scale}) has no records in {store.root}")
    if not is_synced(plan, store, views=views, report=made.report_folder) and _may_write(store, plan.study.name):
        with store.lock("ui"):
            made.complete()


def _complete_all(options: argparse.Namespace, store: Store, views: Path) -> None:
    """Complete what a writer to MLflow that was cut left behind, of studies that are found by their names.

    A study that was swept with changes is not known here as it was swept: reports and saved views stay as they are
    unless they were cut.
    """
    from orchestrator import studies
    from orchestrator.tracking import Tracker, server, was_cut

    for known in server.tracked(views / "mlflow.db"):
        if known.study not in studies.names():
            continue
        plan = make_plan(argparse.Namespace(**{**vars(options), "study": known.study, "scale": known.scale}), store)
        if was_cut(plan.study, store, views=views) and _may_write(store, known.study):
            tracker = Tracker(plan.study, store, views=views)
            with store.lock("ui"):
                tracker.sync(plan)
                tracker.close()


def _may_write(store: Store, study: str) -> bool:
    """Say what is going to be done; False where a sweep is at it, which keeps the views up to date itself."""
    if holder := store.holder():
        sys.stderr.write(f"{study} is shown as far as it is: {holder}\n")
        return False
    sys.stderr.write(f"bringing MLflow's view of {study} up to date with the records\n")
    return True


def _serve(database: Path, port: int) -> int:
    """Run MLflow's server until it is stopped."""
    from orchestrator.tracking import server

    home = f"http://{HOST}:{port}"
    sys.stderr.write("starting MLflow's server\n")
    process = server.start(database, HOST, port)
    stopped_by: list[int] = []
    try:
        with listening(stopped_by.append):
            if not server.wait_until_ready(process, home, lambda: bool(stopped_by)):
                return STOPPED_BY[stopped_by[0]] if stopped_by else 1
            for tracked in server.tracked(database):
                console().print(f"{tracked.study} {tracked.scale}  {home}/{tracked.page}", soft_wrap=True)
            sys.stdout.flush()
            sys.stderr.write("Ctrl-C ends it\n")
            while process.poll() is None and not stopped_by:
                _wait(process)
    finally:
        server.stop(process)
    return 0 if stopped_by else 1


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        return
