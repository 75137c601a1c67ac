"""Comparisons paired by item: n counts the items that both arms were tested on, not the runs.

Whoever has 81 records has 81 items to judge by, in folds each tested once, by students that never saw them. An item's
difference is averaged over seeds; what runs share (a seed's luck) is in the interval and in p (statistics.items).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from orchestrator import statistics
from orchestrator.design import Method
from orchestrator.freshness import PENDING
from orchestrator.items import OUTCOMES, fold_columns, folds_of, item_table, planned_items, replicate_columns, unit_of
from orchestrator.plan import Plan
from orchestrator.record import Record
from orchestrator.report import formatting
from orchestrator.report.differences import Judged, number
from orchestrator.report.family import Family
from orchestrator.report.sections import Grid, Section
from orchestrator.report.summary import Difference, Line
from orchestrator.report.verdicts import Evidence, verdict
from orchestrator.store import Store
from trainables.base import Scalar

ByKey: TypeAlias = dict[tuple[Hashable, ...], dict[Hashable, float]]
"""A value by item (its fold, where there are folds, and its id), and by run."""


@dataclass(frozen=True)
class ItemView:
    """The item outcomes of a study, and its comparisons as rows of the tidy table."""

    plan: Plan
    family: Family
    items: pd.DataFrame
    planned: int | None

    @classmethod
    def read(cls, plan: Plan, store: Store, family: Family, records: Mapping[str, Record]) -> ItemView:
        """Return the view of the outcomes that there are."""
        return cls(plan, family, item_table(plan, store), planned_items(plan, records))

    @property
    def is_compared(self) -> bool:
        """Whether the study's comparison counts items."""
        return unit_of(self.plan.study) == "item"

    @cached_property
    def folds(self) -> int:
        """The number of folds; 0 without."""
        return folds_of(self.plan.study)

    @property
    def item_key(self) -> list[str]:
        """The columns that make an item: a fold's blocks of plain text are named by their place in it."""
        return [*fold_columns(self.plan.study), "item"]

    def outcomes(self, rows: pd.DataFrame, metric: str) -> pd.DataFrame:
        """Return the outcomes of these runs as `value`: nats of the item, or 1 and 0 for right and wrong."""
        mine = self.items[self.items["run_id"].isin(set(rows["run_id"]))]
        value = mine["loss"] * mine["tokens"] if metric == "test_loss" else mine[OUTCOMES[metric]].astype("float64")
        return mine.assign(value=value)

    def difference(self, arm: str, rows: pd.DataFrame) -> tuple[ByKey, int]:
        """Return arm - baseline by item and run, and how many items are left out for a value that is not finite.

        A loss is each item's share of the test loss: its nats over the mean number of tokens of an item, so that the
        mean over the items is the difference in nats per token.
        """
        metric = self.family.comparison.metric
        sides = [
            self.outcomes(self.family.rows_of(name, rows), metric)
            for name in (arm, str(self.family.comparison.baseline))
        ]
        shared = [name for name in replicate_columns(self.plan.study) if all(_has(side, name) for side in sides)]
        keys = list(dict.fromkeys([*self.item_key, *shared]))
        ours, theirs = (side.groupby(keys)[["value", "tokens"]].mean() for side in sides)
        both = ours.join(theirs, how="inner", lsuffix="", rsuffix="_of_baseline")
        both = both.assign(value=both["value"] - both["value_of_baseline"]).reset_index()
        is_finite = np.isfinite(both["value"])
        names = both[self.item_key].apply(tuple, axis=1) if len(both) else pd.Series(dtype="object")
        lost = len(set(names) - set(names[is_finite]))
        both, names = both[is_finite], names[is_finite]
        scale = both["tokens"].groupby(names).first().mean() if metric == "test_loss" and len(both) else 1.0
        runs = both[shared].apply(tuple, axis=1) if shared and len(both) else pd.Series([()] * len(both), both.index)
        return _nested(names, runs, both["value"] / scale), lost

    def waiting(self, arm: str, rows: pd.DataFrame) -> int:
        """Return how many runs of a comparison may still come: the run itself or its evaluation is pending."""
        table = self.family.table
        pending = table[table["status"] == PENDING]
        names = set(pending["run_id"]) | set(pending["subject_id"].dropna() if "subject_id" in pending else ())
        sides = (self.family.rows_of(name, rows) for name in (arm, str(self.family.comparison.baseline)))
        return sum(int(side["run_id"].isin(names).sum()) for side in sides)

    def scope(self, n: int) -> str:
        """Return for what a verdict by item holds: teachers, selected settings, so many items."""
        teachers = len(self.plan.of_stage("teacher"))
        if self.folds and teachers >= self.folds:
            who = f"for the teachers of these {self.folds} folds"
        else:
            who = "for this teacher" if teachers <= 1 else f"for these {teachers} teachers"
        return ", ".join(filter(None, [who, self.plan.study.at_selected, f"over {n} items"]))


def _has(side: pd.DataFrame, column: str) -> bool:
    return column in side and bool(side[column].notna().all())


def _nested(items: pd.Series[Any], runs: pd.Series[Any], values: pd.Series[Any]) -> ByKey:
    found: ByKey = {}
    for item, run, value in zip(items, runs, values, strict=True):
        found.setdefault(item, {})[run] = float(value)
    return found


@dataclass(frozen=True)
class _Case:
    group: dict[str, Scalar]
    arm: str
    paired: statistics.ByItem | None
    waiting: int
    lost: int
    names: list[str]

    @property
    def n(self) -> int:
        return len(self.paired.spread.values) if self.paired else 0

    @property
    def is_due(self) -> bool:
        return self.paired is not None and not self.waiting


def by_item(view: ItemView, judged: Judged) -> tuple[Judged, list[Section]]:
    """Return the comparisons judged by item, and what was done as a section; as they are where replicates count.

    p is adjusted by Holm over the family: items are shared by its comparisons, but the runs are not.
    """
    differences = judged.differences
    if not view.is_compared or not differences:
        return judged, []
    cells = {tuple(group.items()): rows for group, rows in view.family.cells()}
    cases = [_case(view, item, cells[tuple(item.group.items())]) for item in differences]
    adjusted = statistics.holm([case.paired.p if case.paired and case.is_due else 1.0 for case in cases])
    margin = view.family.comparison.margin
    within = statistics.holm([_p_within(case, margin) for case in cases])
    method: Method = "holm" if len(cases) > 1 else "none"
    found = [
        _judged(view, item, case, _evidence(view, item, case, p, q if margin else None, method, len(cases)))
        for item, case, p, q in zip(differences, cases, adjusted, within, strict=True)
    ]
    reason = "items are shared by the comparisons, their runs are not" if len(cases) > 1 else judged.reason
    counted = "n counts items, each averaged over its runs"
    return Judged(found, method, reason, counted=counted), [_section(view, found, cases)]


def _case(view: ItemView, item: Difference, rows: pd.DataFrame) -> _Case:
    outcomes, lost = view.difference(item.arm, rows)
    paired = statistics.paired_by_item(outcomes) if outcomes else None
    names = [" ".join(map(str, name)) for name in outcomes]
    return _Case(item.group, item.arm, paired, view.waiting(item.arm, rows), lost, names)


def _p_within(case: _Case, margin: float | None) -> float:
    return case.paired.p_within(margin) if case.paired and case.is_due and margin else 1.0


def _judged(view: ItemView, item: Difference, case: _Case, evidence: Evidence) -> Difference:
    paired = case.paired
    about = {
        "pairs": paired.spread.values.tolist() if paired else [],
        "replicates": case.names,
        "planned": evidence.planned,
        "estimate": evidence.estimate,
        "interval_method": paired.estimate.interval.method if paired and paired.estimate.interval else "",
        "p": evidence.p,
        "p_adjusted": evidence.p_adjusted,
        "adjusted_by": evidence.adjusted_by,
        "p_equivalent": evidence.p_equivalent,
        "d_z": paired.d_z if paired else None,
        "is_exact": paired.is_exact if paired else True,
        "verdict": verdict(evidence),
        "sentence": sentence(view, evidence, case),
        "unit": "item",
    }
    return item.model_copy(update=about)


def _evidence(
    view: ItemView, item: Difference, case: _Case, p: float, within: float | None, method: Method, size: int
) -> Evidence:
    comparison, paired, is_due = view.family.comparison, case.paired, case.is_due
    return Evidence(
        arm=case.arm,
        baseline=item.baseline,
        group=case.group,
        metric=comparison.metric,
        higher_is_better=comparison.higher_is_better,
        estimate=number(paired.estimate) if paired else None,
        p=paired.p if paired and is_due else None,
        p_adjusted=p if is_due else None,
        planned=max(view.planned or 0, case.n),
        pending=case.waiting,
        family=size,
        alpha=comparison.alpha,
        scope=view.scope(case.n),
        method=method,
        adjusted_by=method if is_due else None,
        margin=comparison.margin,
        p_equivalent=within if is_due else None,
    )


def sentence(view: ItemView, evidence: Evidence, case: _Case) -> str:
    """Return the verdict as a sentence: difference, interval, the items and how often each was tested, p, scope."""
    word, where = verdict(evidence), formatting.group(evidence.group)
    opening = f"{where}, {word}" if where else word
    start = f"{opening[0].upper()}{opening[1:]} {evidence.scope}"
    paired = case.paired
    if paired is None or evidence.estimate is None:
        return f"{start}: no item has been answered by both {evidence.arm} and {evidence.baseline}."
    name = f"{evidence.arm} − {evidence.baseline} in {evidence.metric.replace('_', ' ')}"
    facts = "; ".join(filter(None, [_counted(view, evidence, paired), _p(evidence, paired)]))
    said = f"{start}: {name} {formatting.with_bounds(evidence.estimate, signed=True)} ({facts})."
    return said + _reservation(evidence, case)


def _counted(view: ItemView, evidence: Evidence, paired: statistics.ByItem) -> str:
    """Return "81 items in 5 folds, each tested once; 3 seeds"."""
    n, runs = evidence.n, paired.spread.runs
    items = f"{n} items" if n >= evidence.planned else f"{n} of {evidence.planned} items"
    others = set(replicate_columns(view.plan.study)) - set(fold_columns(view.plan.study))
    noun = "seed" if others == {"seed"} else "pair of runs"
    if not view.folds:
        return f"{items}; {_times(runs, noun)}"
    return f"{items} in {view.folds} folds, each tested once; {_times(max(1, round(runs / view.folds)), noun)}"


def _p(evidence: Evidence, paired: statistics.ByItem) -> str:
    if evidence.p is None:
        return ""
    p = f"p {formatting.p_value(paired.p_items)} over items"
    if paired.spread.runs > 1:
        p += f", {formatting.p_value(paired.p_both)} over items and runs"
    by = " by Holm" if evidence.adjusted_by == "holm" else ""
    return f"{p}; adjusted {formatting.p_value(evidence.p_adjusted)}{by}"


def _reservation(evidence: Evidence, case: _Case) -> str:
    said = ""
    if case.waiting:
        said += f" {_times(case.waiting, 'run')} {'is' if case.waiting == 1 else 'are'} still to come; not tested yet."
    if case.lost:
        said += f" {_times(case.lost, 'item')} without a finite loss left out."
    if case.paired and case.paired.spread.runs == 1:
        said += " One run of each arm: the luck of a seed is not in this interval."
    if evidence.margin is not None and evidence.p_equivalent is not None:
        said += f" Within the margin of {evidence.margin:g}: adjusted p {formatting.p_value(evidence.p_equivalent)}."
    return said


PLURALS = {"pair of runs": "pairs of runs"}


def _times(count: int, noun: str) -> str:
    return f"{count} {noun if count == 1 else PLURALS.get(noun, f'{noun}s')}"


# -- accuracies, and the section that says how ------------------------------------------------------------


def with_accuracy(view: ItemView, line: Line) -> Line:
    """Return the line with its accuracy's interval over items and runs together, where its items are known."""
    if "accuracy" not in line.numbers or not len(view.items):
        return line
    mine = _of_line(view, line)
    mine = mine[mine["correct"].notna()]
    if not len(mine):
        return line
    names = mine[view.item_key].apply(tuple, axis=1)
    spread = statistics.two_way(_nested(names, mine["run_id"], mine["correct"].astype("float64")))
    share = number(spread.estimate())
    if share.low is not None and share.high is not None:
        share = share.model_copy(update={"low": max(0.0, share.low), "high": min(1.0, share.high)})
    return line.model_copy(update={"numbers": {**line.numbers, "accuracy": share}})


def _of_line(view: ItemView, line: Line) -> pd.DataFrame:
    """Return the item outcomes of the runs behind a line."""
    items = view.items
    for column, value in line.group.items():
        if column in items:
            items = items[items[column].isna() | (items[column] == value)]
    if line.kind != "arm":
        return items[items["stage"] == (line.stage or "svd_export")]
    arm = view.family.arm
    ids = set(
        view.family.rows["run_id"] if arm is None else view.family.rows_of(line.label, view.family.rows)["run_id"]
    )
    return items[items["run_id"].isin(ids)]


def _section(view: ItemView, differences: Sequence[Difference], cases: Sequence[_Case]) -> Section:
    tested = f" in {view.folds} folds, each tested once, by students not trained on it" if view.folds else ""
    count = max((case.n for case in cases), default=0)
    about = [
        f"n counts items: {count}{tested}. An item's difference is averaged over the runs that tested it. Two tests "
        "must agree: the sign-flip test over items, which holds for these trained models, and the t test over items "
        "and runs together, whose variance V(items) + V(runs) − V(both) allows for what an item's runs and a run's "
        "items share (Cameron, Gelbach & Miller 2011; Owen 2007). p is the larger of the two; the interval is that of "
        "items and runs together.",
    ]
    if view.folds:
        about.append(
            "Each fold has a teacher and students of its own, so that no verdict is about one teacher; the training "
            "sides of the folds overlap, and no interval can allow for that (Bengio & Grandvalet 2004)."
        )
    names = view.family.groups
    header = [*names, "arms", "items", "pairs of runs", "difference", "p over items", "p over items and runs"]
    rows = [_row(names, item, case) for item, case in zip(differences, cases, strict=True) if case.paired]
    grid = Grid(header=header, rows=rows, text_columns=len(names) + 1)
    return Section(name="items", title="Item by item", paragraphs=about, grids=[grid] if rows else [])


def _row(names: Sequence[str], item: Difference, case: _Case) -> list[str]:
    assert case.paired is not None
    spread = case.paired.spread
    return [
        *(str(item.group.get(name, "")) for name in names),
        f"{item.arm} − {item.baseline}",
        str(case.n),
        str(spread.runs),
        formatting.with_bounds(item.estimate, signed=True),
        formatting.p_value(case.paired.p_items if case.is_due else None),
        formatting.p_value(case.paired.p_both if case.is_due and spread.runs > 1 else None),
    ]
