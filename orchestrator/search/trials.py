"""A search's points as Optuna's trials: the same for its samplers, and for the journal that its tools read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.search.points import Point
from orchestrator.space import Float, Int, Range, Search, Values

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STATES = {"open": "RUNNING", "done": "COMPLETE", "pruned": "PRUNED", "diverged": "FAIL", "failed": "FAIL"}
"""Ours -> Optuna's. The attribute `status` keeps ours."""


def distribution(of: Range) -> BaseDistribution:
    """Return a range as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(of, Float):
        return FloatDistribution(of.low, of.high, log=of.log)
    if isinstance(of, Int):
        return IntDistribution(of.low, of.high, log=of.log)
    return CategoricalDistribution(of.values)


def distributions(values: Values, space: Mapping[str, Range]) -> dict[str, BaseDistribution]:
    """Return the distributions of the axes that a point has."""
    return {axis: distribution(of) for axis, of in space.items() if axis in values}


def trial_of(point: Point, search: Search, names: Mapping[str, str]) -> FrozenTrial:
    """Return a point as a trial for the journal; `names` are its runs' readable names, by id."""
    from optuna.trial import TrialState, create_trial

    state = TrialState[STATES[point.state]]
    attrs = {"status": point.state, "runs": list(point.asked.runs), "names": [names[run] for run in point.asked.runs]}
    return create_trial(
        state=state,
        values=list(point.values) if state == TrialState.COMPLETE else None,
        params=dict(point.at),
        distributions=distributions(point.at, search.space),
        user_attrs={**attrs, "steps": point.steps},
        system_attrs=dict(point.asked.attrs),
        intermediate_values=dict(point.curve or {}) if len(search.objectives) == 1 else {},
    )


def trial_for_sampler(point: Point, search: Search) -> FrozenTrial:
    """Return a point as a trial that a sampler learns from.

    One that diverged is told as pruned before its first report, which TPE ranks last: it forgets a trial that failed,
    and would go on asking for what diverges.
    """
    from optuna.trial import TrialState, create_trial

    state = TrialState.PRUNED if point.state == "diverged" else TrialState[STATES[point.state]]
    has_curve = state == TrialState.PRUNED and point.state == "pruned"
    return create_trial(
        state=state,
        values=list(point.values) if state == TrialState.COMPLETE else None,
        params=dict(point.at),
        distributions=distributions(point.at, search.space),
        system_attrs=dict(point.asked.attrs),
        intermediate_values=dict(point.curve or {}) if has_curve else {},
    )
