"""A study's finished records as an Optuna study, for its tools: importance, plots, the dashboard.

A grid is not searched: its cells are written down with `add_trials`, each outcome once. The journal has one writer,
the driver, so that a file is enough. Replicates (seeds) are no parameters; a trial keeps its own in `user_attrs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.freshness import read_marker, record_states, write_marker
from orchestrator.plan import Plan, Run
from orchestrator.results import arm_stage, test_metrics
from orchestrator.store import Record, Store
from orchestrator.study import Comparison, Study
from trainables.base import Scalar

if TYPE_CHECKING:
    import optuna

MARKER = "optuna.json"


def journal_path(store: Store, views: Path | None = None) -> Path:
    """Return the journal's file: optuna.journal in the folder of views, the store by default."""
    return (views or store.root).absolute() / "optuna.journal"


def is_recorded(plan: Plan, store: Store, *, views: Path | None = None) -> bool:
    """Say whether the journal has been told of exactly these records; needs no optuna to know."""
    path = journal_path(store, views)
    return path.is_file() and read_marker(_marker(plan.study, store, path)) == record_states(plan, store)


def record_grid(plan: Plan, store: Store, *, views: Path | None = None) -> int:
    """Add the compared runs that have ended to the persistent study; return how many trials were new.

    Each outcome of a run enters once: a run that failed (state FAIL) and was made again well enters again. A
    diverged run is a FAIL too. A run whose evaluation is still missing waits.
    """
    path, states = journal_path(store, views), record_states(plan, store)
    records = store.records(run.id for run in plan.runs)
    values = _values(plan, records)
    ended = [run for run in _compared(plan) if run.id in values]
    path.parent.mkdir(parents=True, exist_ok=True)
    study = _open(plan.study, path)
    known = {(trial.user_attrs.get("run_id"), trial.state.name) for trial in study.get_trials(deepcopy=False)}
    trials = [_trial(plan.study, run, records[run.id], values[run.id]) for run in ended]
    new = [trial for trial in trials if (trial.user_attrs["run_id"], trial.state.name) not in known]
    study.add_trials(new)
    write_marker(_marker(plan.study, store, path), states)
    return len(new)


def _open(study: Study, path: Path) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    comparison = study.comparison or Comparison()
    return optuna.create_study(
        study_name=f"{study.name} {study.scale}".strip(),
        storage=JournalStorage(JournalFileBackend(str(path))),
        direction="maximize" if comparison.higher_is_better else "minimize",
        load_if_exists=True,
    )


def _compared(plan: Plan) -> list[Run]:
    return [run for run in plan.of_stage(arm_stage(plan.study)) if run.purpose == "verdict"]


def _values(plan: Plan, records: Mapping[str, Record]) -> dict[str, float | None]:
    """Return the primary outcome of every compared run that has ended; None for those that ended badly."""
    metric = (plan.study.comparison or Comparison()).metric
    tested = test_metrics(plan, records)
    values: dict[str, float | None] = {}
    for run in _compared(plan):
        record = records.get(run.id)
        value = {**(record.metrics if record else {}), **tested.get(run.id, {})}.get(metric)
        if record is not None and record.status != "done":
            values[run.id] = None
        elif isinstance(value, int | float):
            values[run.id] = float(value)
    return values


def _trial(study: Study, run: Run, record: Record, value: float | None) -> optuna.trial.FrozenTrial:
    from optuna.trial import TrialState, create_trial

    varied = {axis: value for axis, value in run.labels.items() if axis in study.axes}
    replicates = {axis: varied.pop(axis) for axis in [*varied] if study.is_replicate(axis)}
    return create_trial(
        params=dict(varied),
        distributions={axis: _distribution(study.axes[axis]) for axis in varied},
        value=value,
        state=TrialState.FAIL if value is None else TrialState.COMPLETE,
        user_attrs={"run_id": run.id, "name": run.name, "status": record.status, **replicates},
    )


def _distribution(values: tuple[Scalar, ...]) -> optuna.distributions.BaseDistribution:
    """Return a distribution that holds the axis' values; numbers as a range, so that the axis can grow later."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    numbers: list[Any] = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values):
        return CategoricalDistribution(values)
    low, high = min(numbers), max(numbers)
    if all(isinstance(value, int) for value in numbers):
        return IntDistribution(low, high, log=low > 0)
    return FloatDistribution(low, high, log=low > 0)


def _marker(study: Study, store: Store, path: Path) -> Path:
    return store.root / "tracked" / f"{study.name}-{study.scale}-{path.parent.name}.{MARKER}"
