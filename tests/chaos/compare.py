"""What a store must hold whatever has happened to the sweeps on it: what an undisturbed one gave."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from orchestrator.identity import sha256_file
from orchestrator.store import Store


def table(store: Path) -> list[dict[str, str]]:
    """Return results.csv without the columns of time and memory."""
    from orchestrator.results import VOLATILE_COLUMNS

    with (store / "reports" / "smoke" / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return [{name: value for name, value in row.items() if name not in VOLATILE_COLUMNS} for row in rows]


def record_times(store: Path) -> dict[str, int]:
    """Return when each finished run was recorded, ns: a run that is executed again has another time."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("artefacts/*/record.json")}


def mlflow_runs(store: Path) -> tuple[list[tuple[str, str]], int]:
    """Return run id and status of every MLflow run that stands for one of ours, and how many of all are RUNNING."""
    with sqlite3.connect(store / "mlflow.db") as database:
        runs = database.execute(
            "select t.value, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'run_id' and r.lifecycle_stage = 'active'"
        ).fetchall()
        running = database.execute("select count(*) from runs where status = 'RUNNING'").fetchone()[0]
    return runs, running


def faults(store: Path, undisturbed: Path, times: Mapping[str, int]) -> list[str]:
    """Return what is wrong with a disturbed store, a line each; `times` are those of the runs recorded on the way."""
    now, wanted = record_times(store), record_times(undisturbed)
    wrong = [f"{name} was lost" for name in sorted(wanted.keys() - now.keys())]
    wrong += [f"{name} was made up" for name in sorted(now.keys() - wanted.keys())]
    wrong += [f"{name} was executed again" for name, time in times.items() if name in now and now[name] != time]
    if table(store) != table(undisturbed):
        wrong.append("results.csv differs")
    flaws = {name: Store(store).flaws(name, sha256_file) for name in now}
    wrong += [f"{name}/{file} {what}" for name, found in flaws.items() for file, what in found.items()]
    runs, running = mlflow_runs(store)
    if sorted(runs) != sorted((name, "FINISHED") for name in wanted):
        wrong.append(f"MLflow has {len(runs)} runs, {len(set(runs))} different ones, for {len(wanted)} of ours")
    if running:
        wrong.append(f"{running} MLflow runs are RUNNING for ever")
    return wrong + [f"{path.name} is left in work/" for path in store.glob("work/*")]
