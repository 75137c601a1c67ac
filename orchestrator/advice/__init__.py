"""What a referee would say of a design before anything trains: can it conclude, is it fair, is the data enough.

    power.py     replicates against what the family can reach, looks, margin
    fairness.py  learning rates, alpha, pairing, early stopping: what would favour one arm
    data.py      precision, and folds for few records

Pure: from the study and its runs alone. Each thing looked at is ok, or a note with the way out in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from orchestrator.advice.base import Advice
from orchestrator.advice.data import data, precision
from orchestrator.advice.fairness import alpha_policy, early_stopping, learning_rates, pairing
from orchestrator.advice.power import is_demonstration, power
from orchestrator.plan import Plan
from orchestrator.rehearsal import first
from orchestrator.replication import design_of

__all__ = ["Advice", "advise", "demonstration"]


def advise(plan: Plan) -> list[Advice]:
    """Return what was looked at, in the order a reader wants it; UserError for more replicates than looks allow."""
    return [*precision(plan), *data(plan), *_of_the_design(plan)]


def _of_the_design(plan: Plan) -> Iterator[Advice]:
    plan = first(plan)
    design = design_of(plan)
    if design is None:
        return
    if missing := without_baseline(plan):
        yield Advice("baseline", False, missing)
        return
    yield from power(plan, design)
    yield from learning_rates(plan, design)
    yield from alpha_policy(plan)
    if plan.study.rehearsal is None:
        yield from pairing(plan, design)
    yield from early_stopping(plan)
    yield from (Advice("study", True, note) for note in plan.study.notes)


def without_baseline(plan: Plan) -> str:
    """Return why nothing can be compared where no arm is the baseline, and the way out; empty where one is."""
    comparison = plan.study.comparison
    arms = plan.study.axes.get(comparison.arm, ()) if comparison else ()
    if comparison is None or not arms or comparison.baseline in arms:
        return ""
    near = difflib.get_close_matches(str(comparison.baseline), map(str, arms), 1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"no arm is the baseline {comparison.baseline!r}, so that nothing is compared and there is no verdict.{meant} "
        f"{comparison.arm} has {', '.join(map(str, arms))}: add it with --axis, or name another as the study's baseline"
    )


def demonstration(plan: Plan) -> str:
    """Return the line that a sweep prints for a design that cannot conclude: why, and what makes it one that can."""
    if missing := without_baseline(plan):
        return missing
    plan = first(plan)
    design = design_of(plan)
    if design is None or not is_demonstration(plan, design):
        return ""
    return next(advice.text for advice in power(plan, design) if not advice.is_ok)
