"""What may be said of a paired difference: one careful word and one sentence (contract C9).

    under-powered by design   no data could have given a p that small: the first thing that is asked
    interim                   planned pairs are still to come, and this is no declared look, or one that does not decide
    supported, contradicted   adjusted p within its level; the difference is in the arm's favour, or against it
    equivalent                otherwise, and at the end: the difference lies within the margin declared beforehand
    inconclusive              otherwise

No verdict without the test behind it, and none at all where the design cannot reach significance whatever the data are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.design import Look, Method, can_conclude, can_conclude_at, needed_replicates, smallest_adjusted_p
from orchestrator.report import formatting
from orchestrator.report.summary import Number, Verdict
from trainables.base import Scalar


@dataclass(frozen=True)
class Evidence:
    """What a verdict is given on. `pending` counts the planned pairs that may still come.

    `method` is how the design's family is adjusted when all its pairs are there, `adjusted_by` how p was adjusted: they
    differ where lost runs left comparisons that no longer share their replicates. `looks` are those declared
    beforehand, the last after `planned` pairs; none is one look, at the end. `p_equivalent` is the adjusted p of
    "within `margin`" (see orchestrator.statistics.equivalence).
    """

    arm: str
    baseline: str
    group: Mapping[str, Scalar]
    metric: str
    higher_is_better: bool
    estimate: Number | None
    p: float | None
    p_adjusted: float | None
    planned: int
    pending: int
    family: int
    alpha: float
    scope: str
    method: Method = "holm"
    adjusted_by: Method | None = None
    looks: tuple[Look, ...] = ()
    margin: float | None = None
    p_equivalent: float | None = None

    @property
    def n(self) -> int:
        """The number of pairs there are."""
        return self.estimate.n if self.estimate else 0

    @property
    def schedule(self) -> tuple[Look, ...]:
        """The declared looks; without any, one at the end that has all of alpha."""
        return self.looks or (Look(self.planned, self.alpha),)

    @property
    def level(self) -> float | None:
        """What p is held against now: alpha, the level of this look, or None between looks."""
        if not self.pending:
            return self.schedule[-1].level
        return next((look.level for look in self.looks if look.n == self.n), None)

    @property
    def is_significant(self) -> bool:
        """Whether the arms differ, by a test that may be made now."""
        return self.level is not None and self.p_adjusted is not None and self.p_adjusted <= self.level

    @property
    def is_within_margin(self) -> bool:
        """Whether the difference is shown to be smaller than the margin, all pairs there."""
        return not self.pending and self.p_equivalent is not None and self.p_equivalent <= self.schedule[-1].level


def verdict(evidence: Evidence) -> Verdict:
    """Return the one word that the evidence allows; the order of the questions is the module's table."""
    if not can_conclude_at(evidence.schedule, evidence.family, method=evidence.method):
        return "under-powered by design"
    if evidence.estimate is not None and evidence.is_significant:
        return "supported" if (evidence.estimate.mean > 0) == evidence.higher_is_better else "contradicted"
    if evidence.pending:
        return "interim"
    return "equivalent" if evidence.is_within_margin else "inconclusive"


def sentence(evidence: Evidence) -> str:
    """Return the verdict as one sentence with difference, interval, n, p and scope, and what limits it."""
    word = verdict(evidence)
    where = formatting.group(evidence.group)
    opening = f"{where}, {word}" if where else word
    return f"{opening[0].upper()}{opening[1:]} {evidence.scope}: {_measured(evidence)}.{_reservation(word, evidence)}"


def _measured(evidence: Evidence) -> str:
    value = evidence.estimate
    if value is None:
        return f"no pair of {evidence.arm} and {evidence.baseline} has finished"
    name = f"{evidence.arm} − {evidence.baseline} in {evidence.metric.replace('_', ' ')}"
    difference = formatting.with_bounds(value, signed=True)
    pairs = f"{value.n} pair{'s' if value.n != 1 else ''}"
    pairs += f" of {evidence.planned}" if value.n < evidence.planned else ""
    if evidence.p is None:
        return f"{name} {difference} ({pairs})"
    p, adjusted = formatting.p_value(evidence.p), formatting.p_value(evidence.p_adjusted)
    how = {"westfall-young": " by Westfall-Young", "holm": " by Holm"}.get(evidence.adjusted_by or "", "")
    return f"{name} {difference} ({pairs}, p {p}, adjusted {adjusted}{how})"


def _reservation(word: Verdict, evidence: Evidence) -> str:
    if word == "under-powered by design":
        return ""
    if word == "interim":
        return _until_when(evidence)
    return _early(evidence) + _margin(word, evidence) + _lost(evidence)


def _until_when(evidence: Evidence) -> str:
    waiting = f" {evidence.pending} of {evidence.planned} pairs are still to come"
    later = [look for look in evidence.looks if look.n > evidence.n]
    if not later:
        return f"{waiting}; nothing is tested until then."
    if evidence.level is None:
        return f"{waiting}; the next look is after {later[0].n}."
    level = formatting.p_value(evidence.level)
    return f"{waiting}; this look asks for {level} or less, the next is after {later[0].n}."


def _early(evidence: Evidence) -> str:
    if not evidence.looks or evidence.level is None:
        return ""
    level = formatting.p_value(evidence.level)
    return f" Level of this look {level}; {evidence.alpha:g} is shared by {len(evidence.looks)} looks."


def _margin(word: Verdict, evidence: Evidence) -> str:
    if evidence.margin is None or evidence.p_equivalent is None:
        return ""
    p = formatting.p_value(evidence.p_equivalent)
    if word == "equivalent":
        return f" Within the margin of {evidence.margin:g} (adjusted p {p})."
    if evidence.is_within_margin:
        return f" It is smaller than the margin of {evidence.margin:g} (adjusted p {p}): real, and too small to matter."
    if word != "inconclusive":
        return ""
    return f" Not shown to be within the margin of {evidence.margin:g} (adjusted p {p})."


def _lost(evidence: Evidence) -> str:
    method = evidence.adjusted_by or evidence.method
    level = evidence.schedule[-1].level
    if evidence.pending or evidence.n >= evidence.planned:
        return ""
    if can_conclude(evidence.n, evidence.family, level, method=method):
        return ""
    gone = evidence.planned - evidence.n
    lost = f"Of {evidence.planned} pairs {gone} {'is' if gone == 1 else 'are'} missing"
    return f" {lost}; the rest cannot reach {level:.2g}."


def design_note(planned: int, family: int, alpha: float, method: Method = "holm", looks: Sequence[Look] = ()) -> str:
    """Return what a design of so many pairs, comparisons and looks can reach; empty where it can conclude."""
    schedule = looks or (Look(planned, alpha),)
    if can_conclude_at(schedule, family, method=method):
        return ""
    least = smallest_adjusted_p(planned, family, method)
    comparisons = f"{family} comparison{'s' if family != 1 else ''}"
    needed = needed_replicates(family, alpha, method=method, looks=len(schedule))
    often = f" with {len(looks)} looks" if len(looks) > 1 else ""
    return (
        f"Under-powered by design: {planned} pairs and {comparisons}{often} cannot give an adjusted p below "
        f"{least:.2g}, whatever the data; {needed} pairs could give one of {alpha:g} or less."
    )
