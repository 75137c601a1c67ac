"""A comparison's finished records as Optuna's trials, for its tools: importance, plots, the dashboard.

A grid is not searched: its cells are written down, each outcome once. Replicates (seeds) are no parameters; a trial
keeps its own in `user_attrs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.plan import Plan, Run
from orchestrator.record import Record
from orchestrator.results import arm_stage, test_metrics
from orchestrator.study import Comparison, Study
from trainables.base import Scalar

if TYPE_CHECKING:
    import optuna


def grid_trials(plan: Plan, records: Mapping[str, Record]) -> list[optuna.trial.FrozenTrial]:
    """Return the compared runs that have ended as trials.

    One that failed or diverged is a FAIL. A run whose evaluation is still missing waits.
    """
    values = _values(plan, records)
    ended = [run for run in _compared(plan) if run.id in values]
    return [_trial(plan.study, run, records[run.id], values[run.id]) for run in ended]


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
