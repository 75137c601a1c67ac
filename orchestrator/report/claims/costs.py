"""What does it cost to reach the target: steps, tokens, FLOPs, seconds and device-seconds, and who pays the teacher?

FLOPs of a training token: 2 T forward, 2 T for the gradients of activations, 2 n for those of the n trained of T
parameters. That is 6 T for full fine-tuning (Kaplan et al. 2020, arXiv 2001.08361, 2.1) and 4 N + 6 n for a LoRA of n
parameters on N frozen ones, whose own gradients are not computed (Hu et al. 2021, arXiv 2106.09685). Every parameter
counts as part of one matrix product; attention's products, checkpointing and evaluations are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from orchestrator.record import Record
from orchestrator.report import formatting
from orchestrator.report.claims.basis import Basis, number
from orchestrator.report.sections import Grid, Section
from trainables.base import Scalar

TO_TARGET = (
    "Costs to the target: means over runs, from the start to the first evaluation at the target; a run that never "
    "reached it counts in full, and the mean is marked ≥. Seconds are a run's own, loading and evaluations included, "
    "in proportion to its steps; device-seconds are seconds times its GPUs, or cores where it has none. The last two "
    "columns add to one student all that its arm's teacher (whatever stands for one) and export cost. FLOPs of a "
    "token: 4 T + 2 n for n trained of T parameters, that is 6 T for full fine-tuning (Kaplan et al. 2020, arXiv "
    "2001.08361) and 4 N + 6 n for a LoRA of n parameters on N frozen ones (no gradients of frozen weights; Hu et al. "
    "2021, arXiv 2106.09685); attention's own products and evaluations are left out."
)
ONCE = (
    "Teacher and export, which are made once (the export's FLOPs are not counted), and after how many students they "
    "have paid for themselves, each saving what it is cheaper than a student of the baseline. At most: the baseline "
    "never reached the target, so that more is saved. Not known: runs of the arm never reached it. Not seen: the arm's "
    "students were not cheaper for as long as the baseline, which never reached it either, was watched."
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
    paid: list[list[str]] = []
    is_trained = False
    for group, members in basis.family.cells():
        mine = {arm: basis.family.rows_of(arm, members) for arm in arms}
        found = {arm: to_target(basis, of_arm) for arm, of_arm in mine.items()}
        once = {arm: beforehand(basis, of_arm) for arm, of_arm in mine.items()}
        for arm, cost in found.items():
            about = [*map(str, group.values()), arm or "student"]
            if cost is not None:
                rows.append([*about, *_cells(cost, once[arm])])
            is_trained = is_trained or once[arm].flops > 0
            if once[arm] != Cost():
                baseline = found[arms[0]] if arm != arms[0] else None
                paid.append([*about, *_paid(cost, baseline, once[arm])])
    if not rows:
        return None
    header = [*basis.family.groups, "arm", "reached", "steps", "tokens", "FLOPs", "seconds", "device-seconds"]
    header += ["FLOPs with teacher", "device-seconds with teacher and export"]
    grids = [Grid(header=header, rows=rows, text_columns=len(basis.family.groups) + 1, caption=TO_TARGET)]
    if paid:
        header = [*basis.family.groups, "arm", "FLOPs, once", "seconds, once", "device-seconds, once"]
        header += ["paid for, in FLOPs", "paid for, in device-seconds"]
        grids.append(Grid(header=header, rows=paid, text_columns=len(basis.family.groups) + 1, caption=ONCE))
    note = [] if is_trained else ["No teacher was trained here: what it cost is not counted."]
    return Section(name="costs", title="Costs to the target", paragraphs=note, grids=grids)


def beforehand(basis: Basis, rows: pd.DataFrame) -> Cost:
    """Return what was trained and factorised before these students could start, whatever it was: the mean over them.

    Base model and data are not counted; a teacher that was given is fetched like a base model, and costs nothing here.
    """
    known = [basis.before(str(run)) for run in rows["run_id"] if run in basis.records]
    spendings = {ids: mean([spent(basis.records[id_], basis) for id_ in ids]).times(len(ids)) for ids in set(known)}
    return mean([spendings[ids] for ids in known])


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


def _paid(ours: ToTarget | None, baseline: ToTarget | None, once: Cost) -> list[str]:
    """Return what teacher and export cost once, and after how many students it is paid, in FLOPs and device-seconds."""
    told = [
        students(of(once), of(ours.mean), of(baseline.mean), ours, baseline)
        if ours is not None and baseline is not None and of(once) > 0
        else formatting.NOTHING
        for of in (_flops, _device_seconds)
    ]
    return [_amount(once.flops), _amount(once.seconds), _amount(once.device_seconds), *told]


def _device_seconds(cost: Cost) -> float:
    return cost.device_seconds


def _flops(cost: Cost) -> float:
    return cost.flops


def students(once: float, ours: float, theirs: float, arm: ToTarget, baseline: ToTarget) -> str:
    """Return after how many students of the arm, each cheaper by theirs - ours, `once` is paid; in words.

    "not known": runs of the arm never reached the target; "not seen": no student was cheaper while the baseline, which
    never reached it either, was watched.
    """
    if arm.is_censored:
        return "not known"
    if theirs <= ours:
        return "not seen" if baseline.is_censored else "never"
    count = math.ceil(once / (theirs - ours) * (1 - 1e-12))
    return f"after {'at most ' if baseline.is_censored else ''}{count} student{'s' if count != 1 else ''}"


def _amount(value: float, sign: str = "") -> str:
    if math.isnan(value):
        return formatting.NOTHING
    if value >= 1e6:
        return f"{sign}{value:.2e}".replace("e+", "e")
    return f"{sign}{value:,.0f}" if value >= 100 or value == 0 else f"{sign}{value:.3g}"
