"""What a referee would say of a design before anything trains: can it conclude, is it fair, is the data enough.

Pure: from the study and its runs alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from orchestrator.design import needed_replicates, smallest_p
from orchestrator.items import item_design
from orchestrator.plan import Plan, Run
from orchestrator.study import Comparison
from trainables.data.config import DatasetConfig
from trainables.dataset import recommend, untested


@dataclass(frozen=True)
class Advice:
    """One thing looked at: fine, or a note with the way out."""

    topic: str
    is_ok: bool
    text: str


def advise(plan: Plan) -> list[Advice]:
    """Return what was looked at, in the order a reader wants it."""
    comparison = plan.study.comparison
    advice = [*_precision(plan), *_data(plan)]
    if comparison is not None and comparison.arm in plan.study.axes:
        advice += [_power(plan, comparison), *_learning_rates(plan, comparison), *_alpha(plan)]
    return advice


def family_size(plan: Plan, comparison: Comparison) -> int:
    """Return the number of comparisons: arms beside the baseline, times the values of every axis that splits them."""
    splits = [
        len(values) for axis, values in plan.study.axes.items() if axis not in (comparison.arm, comparison.replicate)
    ]
    return (len(plan.study.axes.get(comparison.arm, ())) - 1) * math.prod(splits)


def _power(plan: Plan, comparison: Comparison) -> Advice:
    if by_item := item_design(plan):
        way_out = "can conclude" if by_item.can_conclude else f"demonstration; --axis {comparison.replicate}=1,2,3"
        return Advice("design", by_item.can_conclude, f"{by_item}; {way_out}")
    have = len(plan.study.axes.get(comparison.replicate, (None,)))
    count = family_size(plan, comparison)
    need = needed_replicates(count, comparison.alpha)
    smallest = count * smallest_p(have)
    facts = f"{have} paired seeds, {count} comparisons: smallest adjusted p {min(smallest, 1):.3f}"
    if have >= need:
        return Advice("design", True, f"{facts}; can conclude, for one teacher and one data split")
    seeds = ",".join(map(str, range(1, need + 1)))
    return Advice(
        "design", False, f"demonstration: {facts} > {comparison.alpha:g}; --axis {comparison.replicate}={seeds}"
    )


def _learning_rates(plan: Plan, comparison: Comparison) -> Iterator[Advice]:
    rates: dict[str, set[float]] = {}
    for run in plan.of_stage(plan.study.compared_stage):
        rates.setdefault(str(run.labels.get(comparison.arm)), set()).add(_setting(run, "learning_rate"))
    if not rates:
        return
    shown = ", ".join(f"{arm} {' / '.join(f'{rate:g}' for rate in sorted(values))}" for arm, values in rates.items())
    is_shared = len({tuple(sorted(values)) for values in rates.values()}) == 1 and len(rates) > 1
    text = f"{shown} (one rate for all arms favours the arm that it suits)" if is_shared else shown
    yield Advice("learning rate", not is_shared or bool(plan.selections), shown if plan.selections else text)
    yield from _selections(plan)
    for note in plan.study.notes:
        yield Advice("", True, note)


def _selections(plan: Plan) -> Iterator[Advice]:
    """Say what is selected how; a best that still lies on the edge of its grid is named."""
    if not plan.selections:
        return
    seeds = {plan[run].labels.get(plan.study.replicate) for item in plan.selections for run in item.runs if run in plan}
    made = sum(item.value is not None for item in plan.selections)
    settings = ", ".join(dict.fromkeys(f"{item.stage}.{item.setting}" for item in plan.selections))
    text = f"{settings} by validation loss on seeds {', '.join(sorted(map(str, seeds)))}, which no verdict uses"
    yield Advice("selection", True, f"{text}: {made} of {len(plan.selections)} made")
    for item in plan.selections:
        if item.state == "on the edge":
            yield Advice("selection", False, f"{item}: it could not grow further")


def _alpha(plan: Plan) -> Iterator[Advice]:
    students = plan.of_stage("student")
    fixed = {(_setting(run, "lora_alpha"), _setting(run, "use_rslora")) for run in students}
    ranks = {_setting(run, "rank") for run in students}
    is_one_alpha = len(fixed) == 1 and all(alpha is not None and not stabilised for alpha, stabilised in fixed)
    if len(ranks) > 1 and is_one_alpha:
        text = "one lora_alpha for all ranks lowers the step at high rank; leave it out for alpha = rank"
        yield Advice("alpha", False, f"{text}, or --set student.use_rslora=true")


def _precision(plan: Plan) -> Iterator[Advice]:
    used = {_setting(run, "precision") for run in plan.runs} - {None}
    if used:
        yield Advice("precision", True, ", ".join(sorted(map(str, used))))


def _data(plan: Plan) -> Iterator[Advice]:
    configs = [cast(DatasetConfig, run.config) for run in plan.of_stage("dataset")]
    texts = dict.fromkeys([text for config in configs for text in recommend(config)] + untested(configs))
    yield from (Advice("data", False, text) for text in texts)


def _setting(run: Run, name: str) -> Any:
    return getattr(run.config, name, None)
