"""What MLflow is told of a run: name, tags, params, metrics. No word here of how it is sent.

A reader compares params and looks tags up: params are the axes and the settings that a paper's table would name;
every other setting, and where a run came from, is a tag. Curves have the training step; a number that is known once,
at the end of a run, has none (MLflow's step 0), and is drawn as a bar rather than as a curve of one point.
"""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from orchestrator.plan import Run
from orchestrator.record import Record
from orchestrator.report.style import ARM_COLOURS, arm_style
from orchestrator.results import axis_columns
from orchestrator.study import Study
from trainables.base import Progress

Point: TypeAlias = tuple[str, float, int, int]
"""A metric's name, value, time in ms and step."""

STATUSES = {"done": "FINISHED", "diverged": "FINISHED", "pruned": "FINISHED", "oom": "FAILED", "failed": "FAILED"}
"""Ours -> MLflow's; whatever else ended a run killed it. The tag `status` keeps ours."""
HEADLINE = (
    "init",
    "rank",
    "lora_alpha",
    "target_modules",
    "learning_rate",
    "batch_size",
    "steps",
    "epochs",
    "seed",
    "source",
    "subject",
)
"""Settings that are params wherever a stage has them, varied or not."""
NOISE = re.compile(r"sha256|digest|fingerprint|hash|pinned")
LONGEST = 250
"""Characters of a value that a table can still show."""


def run_name(run: Run) -> str:
    """Return what a run is called in MLflow."""
    return run.name or run.id


def run_tags(study: Study, run: Run) -> dict[str, str]:
    """Return a run's tags; `run_id` is what it is found by, `config.*` are the settings that are no params.

    An arm's runs have the colour that the arm has in the report's figures.
    """
    arm = str(run.labels.get(study.comparison.arm, "")) if study.comparison else ""
    settings = _settings(run).items()
    return {
        "study": study.name,
        "scale": study.scale,
        "stage": run.stage,
        "purpose": run.purpose,
        "arm": arm,
        "run_id": run.id,
        **{f"config.{name}": value for name, value in settings if name not in HEADLINE},
        **_colour(study, run, arm),
        **source_tags(),
    }


def source_tags() -> dict[str, str]:
    """Return MLflow's own tags for who ran what."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = ""
    return {
        "mlflow.source.name": "orchestrator",
        "mlflow.source.type": "LOCAL",
        **({"mlflow.user": user} if user else {}),
    }


def record_tags(record: Record) -> dict[str, str]:
    """Return what is known of a run once it has ended: where it ran, on what, and of which code."""
    about = record.provenance
    tags = {
        "host": about.host,
        "device": about.device,
        "mlflow.source.git.commit": about.git,
        "error": str(record.error or "")[:LONGEST],
    }
    return {name: str(value) for name, value in tags.items() if value}


def _colour(study: Study, run: Run, arm: str) -> dict[str, str]:
    if not arm or study.comparison is None or run.stage != study.compared_stage:
        return {}
    names = [str(value) for value in study.axes.get(study.comparison.arm, ())]
    arms = [study.comparison.baseline, *(name for name in names if name != study.comparison.baseline)]
    return {"mlflow.runColor": arm_style(arms, arm)[0] if arm in arms else ARM_COLOURS[-1]}


def study_name(study: Study) -> str:
    """Return what the parent run is called."""
    return f"{study.name} {study.scale}".strip()


def study_tags(study: Study) -> dict[str, str]:
    """Return the tags by which a study's parent run is found."""
    return {"study": study.name, "scale": study.scale, "role": "study"}


def live_points(progress: Progress, time_ms: int) -> list[Point]:
    """Return what a run measured at a step."""
    return [(name, value, time_ms, progress.step) for name, value in progress.metrics.items()]


def clean_params(study: Study, run: Run) -> dict[str, str]:
    """Return the run's params: its axis values, named as in the tables, and its headline settings."""
    headline = {name: value for name, value in _settings(run).items() if name in HEADLINE}
    axes = {column: str(run.labels[axis]) for axis, column in axis_columns(study).items() if axis in run.labels}
    return dict(sorted({**headline, **axes}.items()))


def _settings(run: Run) -> dict[str, str]:
    """Return the run's settings, with what they come to where they were left open; without hashes and gaps."""
    given, counts = dict(_flat(run.config.model_dump(mode="json"))), dict(_flat(run.config.identity()))
    values = {name: counts.get(name, value) if value is None else value for name, value in given.items()}
    kept = {name: str(value) for name, value in values.items() if value not in (None, "") and not NOISE.search(name)}
    return {name: value for name, value in sorted(kept.items()) if len(value) <= LONGEST}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def record_points(record: Record) -> list[Point]:
    """Return a record's measurements: the history by step, then what was known at the end.

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
    return [*points, *summary_points(final, finished), *_resources(record, finished)]


def summary_points(values: Mapping[str, Any], time_ms: int) -> list[Point]:
    """Return numbers that are known once; what is no number is left out."""
    return [(name, float(value), time_ms, 0) for name, value in values.items() if isinstance(value, int | float)]


def _resources(record: Record, time_ms: int) -> list[Point]:
    """Return what the run took, under the prefix by which MLflow knows system metrics."""
    about = record.provenance
    taken = {"system/run_seconds": about.seconds, "system/run_peak_memory_gib": about.peak_memory_gib}
    return summary_points(taken, time_ms)


def seal_of(record: Record) -> str:
    """Return what tells this record from any other of the same run."""
    return f"{record.status} {record.provenance.attempt} {record.provenance.finished}"


def now_ms() -> int:
    """Return the time as MLflow counts it, ms."""
    return round(time.time() * 1000)


def ms(moment: str) -> int:
    """Return a record's moment (ISO 8601) as MLflow counts time, ms."""
    return round(datetime.fromisoformat(moment).timestamp() * 1000)
