"""Whether a run of a search should end early: Optuna's pruners, asked about held-out losses at the same step.

They are asked here and not through Tune's schedulers: those compare all trials of an experiment, and ours holds the
whole plan (contract C4), teachers and evaluations among them. A run is only ever compared with runs of its own arm, for
a start from the teacher's factors is ahead by construction, and of its own seed, which share its data order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.space import Prune

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

Curve = Mapping[int, float]
"""Held-out loss by step."""


def should_prune(rule: Prune, curve: Curve, others: Sequence[Curve], *, length: int) -> bool:
    """Say whether a run with this curve should end; `others` are its rivals' curves, `length` the steps of a whole run.

    At the last step there is nothing left to save. Successive halving begins where there are as many runs as it keeps
    one of: Optuna's would end the second run that comes to a rung, if the first was better.
    """
    if not curve or max(curve) >= length:
        return False
    rung = max(_rungs(rule, curve), default="")
    if rule.rule == "asha" and sum(rung in _rungs(rule, other) for other in others) + 1 < rule.reduction:
        return False
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for other in others:
        is_whole = bool(other) and max(other) >= length
        state = TrialState.COMPLETE if is_whole else TrialState.RUNNING
        value = other[max(other)] if is_whole else None
        attrs = _rungs(rule, other)
        study.add_trial(create_trial(state=state, value=value, intermediate_values=dict(other), system_attrs=attrs))
    past = {step: loss for step, loss in curve.items() if step < max(curve)}
    mine = create_trial(state=TrialState.RUNNING, intermediate_values=dict(curve), system_attrs=_rungs(rule, past))
    study.add_trial(mine)
    return _pruner(rule).prune(study, study.get_trials(deepcopy=False)[-1])


def _pruner(rule: Prune) -> BasePruner:
    from optuna.pruners import MedianPruner, SuccessiveHalvingPruner

    if rule.rule == "median":
        return MedianPruner(n_startup_trials=rule.startup, n_warmup_steps=rule.first - 1)
    return SuccessiveHalvingPruner(min_resource=rule.first, reduction_factor=rule.reduction)


def _rungs(rule: Prune, curve: Curve) -> dict[str, float]:
    """Return the losses with which a run has come to the rungs of successive halving, as its pruner notes them."""
    found: dict[str, float] = {}
    rung = 0
    for step in sorted(curve):
        while step >= rule.first * rule.reduction**rung:
            found[f"completed_rung_{rung}"] = curve[step]
            rung += 1
    return found
