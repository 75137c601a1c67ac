"""What does it cost to reach the target: steps, tokens, FLOPs, seconds and device-seconds, and who pays the teacher?

FLOPs of a training token: 2 T forward, 2 T for the gradients of activations, 2 n for those of the n trained of T
parameters. That is 6 T for full fine-tuning (Kaplan et al. 2020, arXiv 2001.08361, 2.1) and 4 N + 6 n for a LoRA of n
parameters on N frozen ones, whose own gradients are not computed (Hu et al. 2021, arXiv 2106.09685). Every parameter
counts as part of one matrix product; attention's products, checkpointing and evaluations are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from orchestrator.report import formatting
from orchestrator.report.claims.basis import Basis, number
from orchestrator.report.claims.words import listed, where
from orchestrator.report.sections import Grid, Section
from orchestrator.store import Record
from trainables.base import Scalar

FORMULA = (
    "FLOPs of a token: 4 T + 2 n for n trained of T parameters, that is 6 T for full fine-tuning (Kaplan et al. 2020, "
    "arXiv 2001.08361) and 4 N + 6 n for a LoRA of n parameters on N frozen ones (no gradients of frozen weights; Hu "
    "et al. 2021, arXiv 2106.09685); attention's own products and evaluations are left out."
)


@dataclass(frozen=True)
class Cost:
    """What was spent. Tokens are all that went through the model, prompts included; FLOPs 0 where none are counted."""

    steps: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    device_seconds: float = 0.0

    def times(self, factor: float) -> Cost:
        """Return the cost of so many of these, or of so much of one."""
        return Cost(*(getattr(self, field.name) * factor for field in fields(self)))

    def plus(self, other: Cost) -> Cost:
        """Return both costs together."""
        return Cost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class ToTarget:
    """The mean cost of an arm's runs up to the target; those that never reached it count in full."""

    mean: Cost
    n: int
    reached: int

    @property
    def is_censored(self) -> bool:
        """Whether the true mean may be larger."""
        return self.reached < self.n


def section(basis: Basis) -> Section | None:
    """Return the costs to target per arm and rank, and after how many students the teacher has paid for itself."""
    arms = basis.family.arms or [""]
    rows: list[list[str]] = []
    paid: dict[str, list[str]] = {}
    before: dict[str, dict[str, Cost]] = {}
    for group, members in basis.family.cells():
        mine = {arm: basis.family.rows_of(arm, members) for arm in arms}
        found = {arm: to_target(basis, of_arm) for arm, of_arm in mine.items()}
        once = {arm: beforehand(basis, of_arm) for arm, of_arm in mine.items()}
        for arm, cost in found.items():
            if cost is not None:
                rows.append([*map(str, group.values()), arm or "student", *_cells(cost, once[arm])])
        reading = [arm for arm in arms if once[arm] != Cost()]
        for arm in reading:
            before.setdefault(arm or "students", {})[formatting.group(group)] = once[arm]
        for arm in [arm for arm in reading if arm != arms[0]]:
            paid.setdefault(_paid(group, found[arm], found[arms[0]], once[arm]), []).append(arm)
    if not rows:
        return None
    header = [*basis.family.groups, "arm", "reached", "steps", "tokens", "FLOPs", "seconds", "device-seconds"]
    header += ["FLOPs with teacher", "device-seconds with teacher and export"]
    grid = Grid(header=header, rows=rows, text_columns=len(basis.family.groups) + 1)
    told = [text.format(listed(of)) for text, of in paid.items() if text]
    paragraphs = [*_notes(before), *told]
    return Section(name="costs", title="Costs to the target", paragraphs=paragraphs, grids=[grid])


def beforehand(basis: Basis, rows: pd.DataFrame) -> Cost:
    """Return what was trained and factorised before these students could start, whatever it was: the mean over them.

    Base model and data are not counted; a teacher that was given is fetched like a base model, and costs nothing here.
    """
    known = [basis.before(str(run)) for run in rows["run_id"] if run in basis.records]
    spendings = {ids: mean([spent(basis.records[id_], basis) for id_ in ids]).times(len(ids)) for ids in set(known)}
    return mean([spendings[ids] for ids in known])


def _notes(before: Mapping[str, Mapping[str, Cost]]) -> Iterator[str]:
    yield (
        "Means over runs, from the start to the first evaluation at the target; a run that never reached it counts in "
        "full, and the mean is marked ≥. Seconds are a run's own, loading and evaluations included, in proportion to "
        "its steps; device-seconds are seconds times its GPUs, or cores where it has none. The last two columns add "
        "to one student all that its arm's teacher (whatever stands for one) and export cost."
    )
    yield FORMULA
    if not any(cost.flops for costs in before.values() for cost in costs.values()):
        yield "No teacher was trained here: what it cost is not counted."
    told: dict[str, list[str]] = {}
    for arm, costs in before.items():
        is_same = len(set(costs.values())) == 1
        for place, cost in list(costs.items())[: 1 if is_same else None]:
            amounts = f"{_amount(cost.flops)} FLOPs, {_amount(cost.seconds)} s, {_amount(cost.device_seconds)} device-s"
            told.setdefault(amounts, []).append(arm if is_same else f"{arm} ({place})")
    if told:
        amounts = "; ".join(f"{', '.join(names)}: {amount}" for amount, names in told.items())
        yield f"Teacher and export, once (the export's FLOPs are not counted), for the students of {amounts}."


def to_target(basis: Basis, rows: pd.DataFrame) -> ToTarget | None:
    """Return the mean cost up to the target of the runs of these rows; None where no run has an answer."""
    costs, reached = [], 0
    for _, row in rows.iterrows():
        record = basis.records.get(row["run_id"])
        share = _share(row)
        if record is not None and share is not None:
            reached += int(pd.notna(row.get("steps_to_target")))
            costs.append(spent(record, basis).times(share))
    return ToTarget(mean(costs), len(costs), reached) if costs else None


def _share(row: pd.Series[Any]) -> float | None:
    """Return which part of its steps a run needed: all where it was censored; None without an answer."""
    if pd.notna(row.get("steps_to_target")):
        total = row.get("steps")
        return float(row["steps_to_target"]) / float(total) if pd.notna(total) and float(total) > 0 else None
    return 1.0 if pd.notna(row.get("steps_censored_at")) else None


def spent(record: Record, basis: Basis) -> Cost:
    """Return what a whole run cost; tokens and FLOPs are 0 for one that trained nothing, NaN where not recorded."""
    metrics, about = record.metrics, record.provenance
    steps = number(metrics.get("steps")) or 0.0
    counted = _known(metrics.get("tokens"), steps)
    total, trained = (_known(metrics.get(name), steps) for name in ("total_parameters", "trainable_parameters"))
    tokens = counted * _all_per_counted(record, basis)
    devices = number(about.place.get("gpus")) or number(about.place.get("cpus")) or 1.0
    workers = number(about.place.get("workers")) or 1.0
    return Cost(steps, tokens, flops(tokens, total, trained), about.seconds, about.seconds * devices * workers)


def _known(value: Scalar, steps: float) -> float:
    found = number(value)
    return (math.nan if steps else 0.0) if found is None else found


def flops(tokens: float, total: float, trained: float) -> float:
    """Return the FLOPs of training on `tokens` with `trained` of `total` parameters: (4 T + 2 n) a token."""
    return tokens * (4 * total + 2 * trained)


def _all_per_counted(record: Record, basis: Basis) -> float:
    """Return all tokens per token that the loss counts, in the run's data set; 1 where that is not known."""
    data = basis.records.get(record.inputs.get("dataset", ""))
    if data is None:
        return 1.0
    whole, counted = (number(data.metrics.get(name)) for name in ("tokens", "completion_tokens"))
    return whole / counted if whole and counted else 1.0


def mean(costs: Sequence[Cost]) -> Cost:
    """Return the mean cost; nothing for none."""
    total = Cost()
    for cost in costs:
        total = total.plus(cost)
    return total.times(1 / len(costs)) if costs else total


def _cells(cost: ToTarget, once: Cost) -> list[str]:
    sign, own, whole = ("≥ " if cost.is_censored else ""), cost.mean, cost.mean.plus(once)
    numbers = [own.steps, own.tokens, own.flops, own.seconds, own.device_seconds, whole.flops, whole.device_seconds]
    return [f"{cost.reached} of {cost.n}", *(_amount(value, sign) for value in numbers)]


# -- the teacher pays for itself --------------------------------------------------------------------------


def _paid(group: dict[str, Scalar], ours: ToTarget | None, baseline: ToTarget | None, once: Cost) -> str:
    """Return after how many students `once` is paid, with {} for the arms; nothing where that is not known."""
    if ours is None or baseline is None:
        return ""
    told = [
        f"{words} {students(once_of(once), once_of(ours.mean), once_of(baseline.mean), ours, baseline)}"
        for words, once_of in (("in device-seconds", _device_seconds), ("in FLOPs", _flops))
        if once_of(once) > 0
    ]
    if not told:
        return ""
    return f"{where(group)}teacher and export have paid for themselves by students of {{}} {', '.join(told)}."


def _device_seconds(cost: Cost) -> float:
    return cost.device_seconds


def _flops(cost: Cost) -> float:
    return cost.flops


def students(once: float, ours: float, theirs: float, arm: ToTarget, baseline: ToTarget) -> str:
    """Return after how many students of the arm, each cheaper by theirs - ours, `once` is paid; in words."""
    if arm.is_censored:
        return "not known (runs of the arm never reached the target)"
    if theirs <= ours:
        return "never, as far as the baseline was watched" if baseline.is_censored else "never"
    count = math.ceil(once / (theirs - ours) * (1 - 1e-12))
    return f"after {'at most ' if baseline.is_censored else ''}{count} student{'s' if count != 1 else ''}"


def _amount(value: float, sign: str = "") -> str:
    if math.isnan(value):
        return formatting.NOTHING
    if value >= 1e6:
        return f"{sign}{value:.2e}"
    return f"{sign}{value:,.0f}" if value >= 100 or value == 0 else f"{sign}{value:.3g}"
