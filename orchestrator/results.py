"""Records as one tidy table: a row for every run of a plan, finished or not.

A run's row carries what was measured on it by others, too: a student's row has the `test_*` metrics of its
evaluation and the step at which it reached the teacher's loss, so that a comparison needs the students' rows only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestrator.freshness import PENDING
from orchestrator.plan import Plan, Run
from orchestrator.record import Record
from orchestrator.store import Store
from orchestrator.study import Study, setting_of
from trainables.base import Scalar

if TYPE_CHECKING:
    import pandas as pd

Tested: TypeAlias = dict[str, dict[str, Scalar]]
"""The `test_*` metrics of runs, by run id."""
OUTCOMES = ("distance_to_teacher", "subspace_overlap", "intruder_dimensions", "forgetting_loss")
"""Metrics of an evaluation that belong to its subject, as its `test_*` metrics do."""
VOLATILE_COLUMNS = ("started", "seconds", "core_seconds", "peak_memory_gib", "host")
"""The last columns: times, memory and place. All others are equal in two sweeps of one study."""


@dataclass(frozen=True)
class Target:
    """The loss to be reached, and the runs of the teacher it comes from (several: their mean)."""

    loss: float
    source: str


def tidy(plan: Plan, store: Store) -> pd.DataFrame:
    """Return one row per run of the plan: what it is, its axes and settings, its metrics, then the volatile columns.

    Rows are sorted by stage, purpose and axes. `status` is the record's, `skipped` for a run that needs one which ended
    badly, `pending` for one that is still to come. A run that waits for a selection is pending, without an id and
    without the setting that is selected.
    """
    records = store.records(run.id for run in plan.runs)
    statuses = run_statuses(plan, records)
    tested = test_metrics(plan, records)
    rows = [
        {
            "run_id": run.id,
            "name": run.name,
            "stage": run.stage,
            "status": statuses[run.id],
            "purpose": run.purpose,
            "subject_id": run.inputs.get("subject"),
            **_axes(run, axis_columns(plan.study)),
            **_settings(run, plan.study),
            **(records[run.id].metrics if run.id in records else {}),
            **tested.get(run.id, {}),
            **_steps_to_target(run, records.get(run.id), target(plan, records, tested, run)),
            **_volatile(records.get(run.id)),
        }
        for run in _sorted(plan.study, plan.runs)
    ]
    rows += [_expected_row(run, plan) for run in _sorted(plan.study, plan.expected)]
    return _frame(rows, [*_leading(plan.study), *_metric_names(rows, plan.study), *VOLATILE_COLUMNS])


def _expected_row(run: Run, plan: Plan) -> dict[str, Any]:
    selected = {item.setting for item in plan.open if item.stage == run.stage}
    settings = {name: value for name, value in _settings(run, plan.study).items() if name not in selected}
    about = {"name": run.name, "stage": run.stage, "status": PENDING, "purpose": run.purpose}
    return {**about, **_axes(run, axis_columns(plan.study)), **settings}


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, whole or not at all; numbers with all their digits."""
    beside = path.with_name(f".{path.name}")
    table.to_csv(beside, index=False)
    beside.replace(path)


def axis_columns(study: Study) -> dict[str, str]:
    """Return each axis' column: its setting's name, or the whole name where two axes vary settings of one name."""
    names = [*study.varied, *_choices(study)]
    taken = Counter(map(setting_of, names))
    return {name: setting_of(name) if taken[setting_of(name)] == 1 else name for name in names}


def run_statuses(plan: Plan, records: Mapping[str, Record]) -> dict[str, str]:
    """Return every run's status by id; a run without a record is `skipped` or `pending`."""
    bad = [run_id for run_id, record in records.items() if record.status != "done"]
    skipped = plan.dependants(bad)
    without = {run.id: "skipped" if run.id in skipped else PENDING for run in plan.runs}
    return without | {run_id: record.status for run_id, record in records.items()}


def agreeing(run: Run, others: Iterable[Run]) -> list[Run]:
    """Return those of `others` whose axis values do not contradict the run's: its teacher, its base model."""
    return [
        other for other in others if all(run.labels.get(axis, value) == value for axis, value in other.labels.items())
    ]


def target(plan: Plan, records: Mapping[str, Record], tested: Tested, run: Run) -> Target | None:
    """Return the loss that a student has to reach: its teacher's final held-out loss plus the study's margin.

    A teacher that was given has no held-out loss; its test loss serves then. None where neither is known yet.
    """
    if plan.study.comparison is None or run.stage != arm_stage(plan.study):
        return None
    teachers = agreeing(run, plan.of_stage("teacher"))
    held_out = [_metric(records.get(teacher.id), "final_eval_loss") for teacher in teachers]
    if loss := _mean(held_out):
        return Target(loss + plan.study.comparison.target_margin, "the teacher's final held-out loss")
    if loss := _mean([_number(tested.get(teacher.id, {}).get("test_loss")) for teacher in teachers]):
        return Target(loss + plan.study.comparison.target_margin, "the given teacher's test loss")
    return None


def arm_stage(study: Study) -> str:
    """Return the stage whose runs are compared."""
    return study.compared_stage


def first_step_at(history: Mapping[str, list[float | None]], loss: float) -> int | None:
    """Return the first evaluated step whose held-out loss is at most `loss`; None if there is none."""
    pairs = zip(history.get("step", []), history.get("eval_loss", []), strict=False)
    return next((int(step) for step, value in pairs if step is not None and value is not None and value <= loss), None)


def _steps_to_target(run: Run, record: Record | None, goal: Target | None) -> dict[str, Any]:
    """Return target, step of the first hit, and the step up to which there was none where there was no hit."""
    if goal is None:
        return {}
    found: dict[str, Any] = {"target_loss": goal.loss}
    if record is None or record.status not in ("done", "diverged") or not record.history:
        return found
    step = first_step_at(record.history, goal.loss)
    if step is not None:
        return {**found, "steps_to_target": step}
    last = max(int(step) for step in record.history["step"] if step is not None)
    # With epochs the setting `steps` is not used: what was trained is a metric; of a run that diverged, its last row.
    asked = record.settings.get("steps") if record.settings.get("epochs") is None else record.metrics.get("steps")
    return {**found, "steps_censored_at": int(asked or last)}


def test_metrics(plan: Plan, records: Mapping[str, Record]) -> Tested:
    """Return by subject the `test_*` metrics and the other outcomes of its evaluation.

    A truncated teacher has several evaluations, and none of their metrics. Evaluations that differ in nothing but their
    data (a base model on the test side of every fold) count as their mean.
    """
    evaluations: dict[str, list[Run]] = {}
    for run in plan.runs:
        if "subject" in run.inputs:
            evaluations.setdefault(run.inputs["subject"], []).append(run)
    return {
        subject: _outcomes([records[run.id] for run in runs])
        for subject, runs in evaluations.items()
        if all(run.id in records and run.config == runs[0].config for run in runs)
    }


def _outcomes(found: list[Record]) -> dict[str, Scalar]:
    """Return the outcomes of one record, or the means of several records' numbers."""
    names = [name for name in found[0].metrics if name.startswith("test_") or name in OUTCOMES]
    if len(found) == 1:
        return {name: found[0].metrics[name] for name in names}
    means = {name: _mean([_metric(record, name) for record in found]) for name in names}
    return {name: value for name, value in means.items() if value is not None}


def _choices(study: Study) -> list[str]:
    """Return the axes that inputs with several alternatives make: `evaluate.subject`."""
    return [
        f"{name}.{role}"
        for name, stage in study.stages.items()
        for role, source in stage.inputs.items()
        if isinstance(source, tuple)
    ]


def _axes(run: Run, columns: Mapping[str, str]) -> dict[str, Any]:
    return {column: run.labels[axis] for axis, column in columns.items() if axis in run.labels}


def _setting_names(study: Study) -> list[str]:
    """Return the compared stage's plain settings: those that tell its runs apart or that a reader asks for."""
    import trainables

    stage = study.stages.get(arm_stage(study))
    return list(trainables.find(stage.trainable).config.model_fields) if stage else []


def _settings(run: Run, study: Study) -> dict[str, Any]:
    settings = run.config.model_dump(mode="json")
    values = {name: settings[name] for name in _setting_names(study) if name in settings}
    axes = set(axis_columns(study).values())
    return {name: value for name, value in values.items() if _is_plain(value) and name not in axes}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool | int | float)


def _leading(study: Study) -> list[str]:
    return list(
        dict.fromkeys(
            [
                "run_id",
                "name",
                "stage",
                "status",
                "purpose",
                "subject_id",
                *axis_columns(study).values(),
                *_setting_names(study),
            ]
        )
    )


def _metric_names(rows: list[dict[str, Any]], study: Study) -> list[str]:
    known = {*_leading(study), *VOLATILE_COLUMNS}
    return list(dict.fromkeys(name for row in rows for name in row if name not in known))


def _volatile(record: Record | None) -> dict[str, Any]:
    if record is None:
        return {}
    about = record.provenance
    cores = float(about.place.get("cpus", 1)) * int(about.place.get("workers", 1))
    return {
        "started": about.started,
        "seconds": about.seconds,
        "core_seconds": round(about.seconds * cores, 3),
        "peak_memory_gib": about.peak_memory_gib,
        "host": about.host,
    }


def _sorted(study: Study, runs: Iterable[Run]) -> list[Run]:
    runs = list(runs)
    stages = list(dict.fromkeys(run.stage for run in runs))
    position = {axis: {value: i for i, value in enumerate(ordered(values))} for axis, values in study.axes.items()}

    def key(run: Run) -> tuple[Any, ...]:
        axes = tuple(position[axis].get(run.labels.get(axis), -1) for axis in position)
        return stages.index(run.stage), run.purpose == "tuning", axes, run.name, run.id

    return sorted(runs, key=key)


def ordered(values: Iterable[Any]) -> list[Any]:
    """Return an axis' values in the order of tables: numbers ascending, others as the study has them."""
    values = list(values)
    return sorted(values) if all(isinstance(value, int | float) for value in values) else values


def _frame(rows: list[dict[str, Any]], names: list[str]) -> pd.DataFrame:
    """Return the rows as a table whose whole numbers stay whole where values are missing."""
    import pandas as pd

    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    empty = [name for name, column in columns.items() if column.isna().all() and name not in VOLATILE_COLUMNS]
    return pd.DataFrame({name: column for name, column in columns.items() if name not in empty})


def _column(values: list[Any]) -> pd.Series[Any]:
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean")
    if kinds == {int}:
        return pd.Series(values, dtype="Int64")
    if kinds and kinds <= {int, float}:
        return pd.Series(values, dtype="float64")
    return pd.Series(values, dtype="object")


def _metric(record: Record | None, name: str) -> float | None:
    return _number(record.metrics.get(name)) if record is not None else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
