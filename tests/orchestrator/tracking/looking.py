"""What MLflow has of a study, read through MLflow itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any


def runs_at(uri: str, *, study: str = "rank_study", store: str | None = None) -> tuple[Any, Any, dict[str, Any]]:
    """Return MLflow's client, the parent of the study (of that store) and its children by run id, each there once."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study)
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [run for run in found if run.data.tags.get("role") == "study"]
    (parent,) = [run for run in parents if store is None or run.data.tags["store"] == store]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert store is not None or len(children) == len(found) - 1
    by_id = {run.data.tags["run_id"]: run for run in children}
    assert len(by_id) == len(children), "a run id has two children"
    return client, parent, by_id


def logged(client: Any, run: Any) -> Counter[tuple[str, int]]:
    """Return how often each (metric, step) is there."""
    return Counter(
        (name, m.step) for name in run.data.metrics for m in client.get_metric_history(run.info.run_id, name)
    )


def expected(record: Any) -> set[tuple[str, int]]:
    """Return what MLflow is to have of a record: curves by step, and numbers that are known once without one."""
    rows = list(record.history_rows())
    steps = {(name, int(row["step"])) for row in rows for name in row if name != "step"}
    once = {name for name, value in record.metrics.items() if name not in record.history and value is not None}
    measured = {"run_seconds": record.provenance.seconds, "run_peak_memory_gib": record.provenance.peak_memory_gib}
    once |= {f"system/{name}" for name, value in measured.items() if value is not None}
    return steps | {(name, 0) for name in once}


def wait_until(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.1)
