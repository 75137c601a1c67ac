"""The paired differences of a study and what may be said of each: tests, the family's adjusted p, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from orchestrator import statistics
from orchestrator.design import Look, Method
from orchestrator.replication import levels_of
from orchestrator.report.family import Family, Pairing
from orchestrator.report.summary import Difference, Number
from orchestrator.report.verdicts import Evidence, sentence, verdict
from orchestrator.statistics import Adjusted
from trainables.base import Scalar


@dataclass(frozen=True)
class Judged:
    """All comparisons of a family; how p is adjusted once all its replicates are there, and why so."""

    differences: list[Difference]
    method: Method = "none"
    reason: str = ""
    looks: tuple[Look, ...] = ()
    counted: str = ""


@dataclass(frozen=True)
class _Case:
    group: dict[str, Scalar]
    arm: str
    pairing: Pairing
    test: statistics.Paired


def judge(family: Family, scope: str) -> Judged:
    """Return every arm against the baseline in every group, p adjusted over all of them.

    Westfall-Young where all comparisons share their replicates, else Holm. What is not due is not tested, and counts
    with p = 1: the adjusted p of the others can then only fall when it comes.
    """
    if not family.has_baseline:
        return Judged([])
    cases = [_case(family, group, arm, rows) for group, rows in family.cells() for arm in family.arms[1:]]
    comparison = family.comparison
    design, reason = statistics.method_for([case.pairing.planned for case in cases])
    adjusted = _adjusted(cases, comparison.looks) or Adjusted([None] * len(cases), design, reason)
    sharing: Method = "holm" if adjusted.method == "holm" else design
    frame = _Frame(family, design, adjusted, levels_of(comparison, sharing), scope, len(cases))
    within = _within(cases, comparison.margin, comparison.looks)
    found = [frame.difference(case, p, q) for case, p, q in zip(cases, adjusted.p, within, strict=True)]
    return Judged(found, design, reason, frame.looks, cases[0].pairing.found.note if cases else "")


def number(estimate: statistics.Estimate) -> Number:
    """Return an estimate as a report holds it."""
    low, high = (estimate.interval.low, estimate.interval.high) if estimate.interval else (None, None)
    return Number(mean=estimate.mean, n=estimate.n, low=low, high=high)


def _case(family: Family, group: dict[str, Scalar], arm: str, rows: pd.DataFrame) -> _Case:
    pairing = family.compared(arm, rows, family.comparison.metric)
    return _Case(group, arm, pairing, statistics.sign_flip(list(pairing.found.differences.values())))


def _adjusted(cases: Sequence[_Case], looks: Sequence[int]) -> Adjusted | None:
    due = [case.pairing.is_due(looks) for case in cases]
    if not any(due):
        return None
    return statistics.adjust(
        [case.pairing.found.differences if now else {} for case, now in zip(cases, due, strict=True)]
    )


def _within(cases: Sequence[_Case], margin: float | None, looks: Sequence[int]) -> list[float | None]:
    """Return Holm's adjusted p of "within the margin"; None where no margin was declared.

    What is not due yet is not tested and counts with p = 1: the others' adjusted p can then only fall when it comes.
    """
    if margin is None:
        return [None] * len(cases)
    values = [list(case.pairing.found.differences.values()) if case.pairing.is_due(looks) else [] for case in cases]
    return list(statistics.holm([statistics.equivalence(d, margin).p if d else 1.0 for d in values]))


@dataclass(frozen=True)
class _Frame:
    """What all comparisons of one study share."""

    family: Family
    design: Method
    adjusted: Adjusted
    looks: tuple[Look, ...]
    scope: str
    size: int

    def difference(self, case: _Case, p_adjusted: float | None, within: float | None) -> Difference:
        """Return the comparison with its verdict; p is left out while there is none to hold it against."""
        evidence, test = self.evidence(case, p_adjusted, within), case.test
        if evidence.level is None:
            evidence = replace(evidence, p=None, p_adjusted=None, p_equivalent=None)
        interval = test.estimate.interval if evidence.n else None
        return Difference(
            arm=case.arm,
            baseline=evidence.baseline,
            group=case.group,
            pairs=list(case.pairing.found.differences.values()),
            replicates=[_words(key) for key in case.pairing.found.differences],
            planned=evidence.planned,
            estimate=evidence.estimate,
            interval_method=interval.method if interval else "",
            p=evidence.p,
            p_adjusted=evidence.p_adjusted,
            adjusted_by=evidence.adjusted_by,
            p_equivalent=evidence.p_equivalent,
            d_z=test.d_z,
            is_exact=test.is_exact,
            verdict=verdict(evidence),
            sentence=sentence(evidence),
        )

    def evidence(self, case: _Case, p_adjusted: float | None, within: float | None) -> Evidence:
        """Return what the verdict is given on."""
        comparison, n = self.family.comparison, case.test.estimate.n
        planned, pending = len(case.pairing.planned), case.pairing.waiting
        if self.looks:
            planned, pending = self.looks[-1].n, max(0, self.looks[-1].n - planned) + pending
        return Evidence(
            arm=case.arm,
            baseline=str(comparison.baseline),
            group=case.group,
            metric=comparison.metric,
            higher_is_better=comparison.higher_is_better,
            estimate=number(case.test.estimate) if n else None,
            p=case.test.p if n else None,
            p_adjusted=p_adjusted,
            planned=planned,
            pending=pending,
            family=self.size,
            alpha=comparison.alpha,
            scope=self.scope,
            method=self.design,
            adjusted_by=self.adjusted.method,
            looks=self.looks,
            margin=comparison.margin,
            p_equivalent=within,
        )


def _words(key: tuple[object, ...]) -> str:
    return " ".join(str(part) for part in key)
