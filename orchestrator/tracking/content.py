"""What MLflow is told of a run: name, tags, params, metrics. No word here of how it is sent."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from orchestrator.plan import Run
from orchestrator.store import Record
from orchestrator.study import Study, setting_of
from trainables.base import Progress

Point: TypeAlias = tuple[str, float, int, int]
"""A metric's name, value, time in ms and step."""

STATUSES = {"done": "FINISHED", "diverged": "FINISHED", "pruned": "FINISHED", "oom": "FAILED", "failed": "FAILED"}
"""Ours -> MLflow's; whatever else ended a run killed it. The tag `status` keeps ours."""
NOISE = re.compile(r"sha256|digest|fingerprint|hash")


def run_name(run: Run) -> str:
    """Return what a run is called in MLflow."""
    return run.name or run.id


def run_tags(study: Study, run: Run) -> dict[str, str]:
    """Return a run's tags; `run_id` is what it is found by."""
    arm = study.comparison.arm if study.comparison else ""
    return {
        "study": study.name,
        "scale": study.scale,
        "stage": run.stage,
        "purpose": run.purpose,
        "arm": str(run.labels.get(arm, "")),
        "run_id": run.id,
    }


def study_name(study: Study) -> str:
    """Return what the parent run is called."""
    return f"{study.name} {study.scale}".strip()


def study_tags(study: Study) -> dict[str, str]:
    """Return the tags by which a study's parent run is found."""
    return {"study": study.name, "scale": study.scale, "role": "study"}


def live_points(progress: Progress, time_ms: int) -> list[Point]:
    """Return what a run measured at a step."""
    return [(name, value, time_ms, progress.step) for name, value in progress.metrics.items()]


def clean_params(run: Run) -> dict[str, str]:
    """Return the run's settings and axis values as MLflow's params: plain values only, without hashes and gaps."""
    settings = {name: value for name, value in _flat(run.config.model_dump(mode="json")) if value not in (None, "")}
    axes = {setting_of(axis): value for axis, value in run.labels.items()}
    kept = {name: value for name, value in {**axes, **settings}.items() if not NOISE.search(name)}
    return {name: str(value) for name, value in sorted(kept.items()) if len(str(value)) <= 250}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def record_points(record: Record) -> list[Point]:
    """Return a record's measurements: the history by step, then the final metrics at the last one.

    Records keep no time per step: times are spread evenly over the run.
    """
    started, finished = ms(record.provenance.started), ms(record.provenance.finished)
    rows = list(record.history_rows())
    last = max((int(row["step"]) for row in rows), default=0)
    points: list[Point] = []
    for row in rows:
        step = int(row["step"])
        time_ms = started + round((finished - started) * step / max(last, 1))
        points += [(name, float(value), time_ms, step) for name, value in row.items() if name != "step"]
    final = {name: value for name, value in record.metrics.items() if name not in record.history}
    return points + [
        (name, float(value), finished, last) for name, value in final.items() if isinstance(value, int | float)
    ]


def seal_of(record: Record) -> str:
    """Return what tells this record from any other of the same run."""
    return f"{record.status} {record.provenance.attempt} {record.provenance.finished}"


def now_ms() -> int:
    """Return the time as MLflow counts it, ms."""
    return round(time.time() * 1000)


def ms(moment: str) -> int:
    """Return a record's moment (ISO 8601) as MLflow counts time, ms."""
    return round(datetime.fromisoformat(moment).timestamp() * 1000)
