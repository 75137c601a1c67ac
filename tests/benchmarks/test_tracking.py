"""What tracking costs a sweep: its metrics in CPU time, and a server's outage in the sweep's own time.

CPU seconds are counted, per thread, because another load on the machine hardly changes them; wall times are shown as
ratios of sweeps that took turns.

    python -m pytest tests/benchmarks/test_tracking.py -n 0 -m benchmark -s
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import time
from collections import defaultdict
from typing import Any

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from cluster.attempt import Steps
from cluster.notes import Notes
from orchestrator.__main__ import main
from orchestrator.store import Store
from orchestrator.tracking import Tracker, sender
from orchestrator.tracking.experiment import Experiment
from tests.orchestrator.tracking.server import serving
from tests.orchestrator.tracking.sweeping import sweep

PAIRS = int(os.environ.get("PAIRS", "3"))
METRICS = ("worker: rows of the record", "driver: into the queue", "thread: metrics sent while runs train")
CLOSING = "thread: runs completed from their records, and closed"
LAST = "of which metrics that were not sent before"


@pytest.fixture
def cpu_s(monkeypatch):
    """Return CPU seconds by what they were spent on; calls within a timed call count for the outer one only."""
    spent: dict[str, float] = defaultdict(float)

    def time_calls(owner: Any, name: str, what: str, spent: dict[str, float] = spent) -> None:
        call = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                spent[what] += time.thread_time() - begun

        monkeypatch.setattr(owner, name, timed)

    time_calls(Steps, "__next__", "training")
    time_calls(Notes, "note", METRICS[0])
    time_calls(Tracker, "progressed", METRICS[1])
    time_calls(Experiment, "measure", METRICS[2])
    time_calls(Experiment, "flush", METRICS[2])
    for name, what in {
        "start": "thread: runs created",
        "finish": CLOSING,
        "sync": "thread: the report sent",
        "look_again": "thread: experiment and parent found or made",
    }.items():
        time_calls(Experiment, name, what)
    time_calls(sender, "writing_client", "thread: mlflow imported")
    # Metrics go to MLflow in one call with tags, to its database in a step of their own.
    inner: dict[str, float] = defaultdict(float)
    time_calls(SqlAlchemyStore, "_log_metrics", "metrics", inner)
    complete = Experiment.finish

    def completing(*arguments: Any) -> None:
        before = inner["metrics"]
        complete(*arguments)
        spent[LAST] += inner["metrics"] - before

    monkeypatch.setattr(Experiment, "finish", completing)
    return spent


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
def test_metric_logging_as_a_share_of_training(tmp_path, monkeypatch, cpu_s):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        code = main(["sweep", "smoke", "--local", "--store", str(tmp_path / "runs")])
    store = Store(tmp_path / "runs")
    rows = sum(len(record.history.get("step", ())) for record in store.records(store.ids()).values())
    training = cpu_s.pop("training") - cpu_s[METRICS[0]]
    print(f"\nsmoke, {len(store.ids())} runs, {rows} rows of metrics; CPU seconds, and their share of training")
    print(f"{training:8.3f}          training (the trainables' own steps)")
    for what, seconds in cpu_s.items():
        print(f"{seconds:8.3f} {seconds / training:8.2%} {what}")
    while_training = sum(cpu_s[what] for what in METRICS)
    print(f"{while_training:8.3f} {while_training / training:8.2%} metric logging while runs train (the three)")
    logging = while_training + cpu_s[LAST]
    print(f"{logging:8.3f} {logging / training:8.2%} metric logging with what a run's end still sends")
    assert code == 0
    assert rows > 0 < cpu_s[METRICS[2]]


@pytest.mark.benchmark
@pytest.mark.timeout(7200)
def test_a_sweep_while_its_server_is_killed_for_half_a_minute(tmp_path):
    ratios: dict[str, list[float]] = {"wall": [], "cpu": []}
    for pair in range(PAIRS):
        found = {}
        for kind in ("undisturbed", "disturbed") if pair % 2 == 0 else ("disturbed", "undisturbed"):
            folder = tmp_path / f"{kind}{pair}"
            with serving(folder / "server") as server:
                swept = found[kind] = sweep(folder, server.uri, disturb=server if kind == "disturbed" else None)
            assert swept.code == 0, swept.said
            assert swept.was_in_the_middle
            print(f"\n{kind:<12} {swept.seconds:7.1f} s, {swept.cpu_s:7.1f} CPU s", *swept.lines, sep="\n  ")
        ratios["wall"].append(found["disturbed"].seconds / found["undisturbed"].seconds)
        ratios["cpu"].append(found["disturbed"].cpu_s / found["undisturbed"].cpu_s)
    for what, values in ratios.items():
        shown = " ".join(f"{value:.3f}" for value in values)
        print(f"{what}: disturbed / undisturbed, {PAIRS} pairs: {shown}; median {statistics.median(values):.3f}")
