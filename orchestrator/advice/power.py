"""Can the design conclude, by the method that it will be judged by?"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.advice.base import Advice
from orchestrator.design import can_conclude_at, needed_for_equivalence, smallest_adjusted_p
from orchestrator.items import item_design
from orchestrator.plan import Plan
from orchestrator.replication import Design, lengthened

NAMES = {"westfall-young": "Westfall-Young", "holm": "Holm"}


def power(plan: Plan, design: Design) -> Iterator[Advice]:
    """Yield whether the replicates can conclude, whether the looks' last is planned, and what a margin needs.

    Where the comparison counts items, whether these can.
    """
    if by_item := item_design(plan):
        way_out = "can conclude" if by_item.can_conclude else f"demonstration; {extended(plan, design, design.needed)}"
        yield Advice("design", by_item.can_conclude, f"{by_item}; {way_out}")
        return
    yield _replicates(plan, design)
    yield from _looks(plan, design)
    yield from _margin(design)


def is_demonstration(plan: Plan, design: Design) -> bool:
    """Say whether no data could give this design an adjusted p at its level."""
    if by_item := item_design(plan):
        return not by_item.can_conclude
    if design.looks:
        return not can_conclude_at(design.looks, design.family, method=design.method)
    return design.have < design.needed


def extended(plan: Plan, design: Design, count: int) -> str:
    """Return the options that give the study so many replicates."""
    return " ".join(word for pair in lengthened(plan.study, design, count) for word in pair)


def _replicates(plan: Plan, design: Design) -> Advice:
    alpha, m = design.comparison.alpha, design.family
    smallest = smallest_adjusted_p(design.planned, m, design.method)
    how = f" by {NAMES[design.method]}" if design.method in NAMES else ""
    facts = (
        f"{design.planned} replicates ({' and '.join(design.counted) or 'none'}), {m} comparison{'s' * (m != 1)}: "
        f"smallest adjusted p {smallest:.3f}{how}"
    )
    if not is_demonstration(plan, design):
        return Advice("design", True, f"{facts}; can conclude, {_scope(plan)}")
    out = extended(plan, design, design.needed)
    if design.looks:
        return Advice(
            "design", False, f"demonstration: {facts}, too large for looks {_sizes(design)}; fewer looks, or {out}"
        )
    return Advice("design", False, f"demonstration: {facts} > {alpha:g}; {out}")


def _scope(plan: Plan) -> str:
    teachers, splits = len(plan.of_stage("teacher")), len(plan.of_stage("dataset"))
    who = "one teacher" if teachers <= 1 else f"{teachers} teachers"
    where = "one data split" if splits <= 1 else f"{splits} data splits"
    return ", ".join(filter(None, [f"for {who} and {where}", plan.study.at_selected]))


def _looks(plan: Plan, design: Design) -> Iterator[Advice]:
    if not design.looks:
        return
    levels = ", ".join(f"{look.n} at {look.level:.4f}" for look in design.looks)
    if design.have in design.comparison.looks:
        yield Advice("looks", True, f"after {levels}; together {design.comparison.alpha:g}")
        return
    later = next(n for n in design.comparison.looks if n > design.have)
    text = f"{design.have} replicates are between the looks after {_sizes(design)}; {extended(plan, design, later)}"
    yield Advice("looks", False, text)


def _margin(design: Design) -> Iterator[Advice]:
    margin = design.comparison.margin
    if margin is None:
        text = "none: a near tie stays inconclusive; declare the smallest difference that matters (Comparison.margin)"
        yield Advice("margin", True, text)
        return
    need = needed_for_equivalence(design.family, design.comparison.alpha)
    if design.planned < need:
        text = f"equivalence within {margin:g} needs {need} replicates (Holm in every family), {design.planned} planned"
        yield Advice("margin", False, text)
        return
    yield Advice("margin", True, f"{margin:g}: a difference can be shown to lie within it")


def _sizes(design: Design) -> str:
    return ", ".join(map(str, design.comparison.looks))
