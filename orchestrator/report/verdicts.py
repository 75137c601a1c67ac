"""What may be said of a paired difference: one careful word and one sentence (contract C9).

No verdict without the test behind it, none before the planned pairs are there, and none at all where the design
cannot reach significance whatever the data are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.design import can_conclude, needed_replicates, smallest_p
from orchestrator.report import formatting
from orchestrator.report.summary import Number, Verdict
from trainables.base import Scalar


@dataclass(frozen=True)
class Evidence:
    """What a verdict is given on. `pending` counts the planned pairs that may still come."""

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

    @property
    def n(self) -> int:
        """The number of pairs there are."""
        return self.estimate.n if self.estimate else 0


def verdict(evidence: Evidence) -> Verdict:
    """Return the one word that the evidence allows."""
    if not can_conclude(evidence.planned, evidence.family, evidence.alpha):
        return "under-powered by design"
    if evidence.pending:
        return "interim"
    if evidence.estimate is None or evidence.p_adjusted is None or evidence.p_adjusted > evidence.alpha:
        return "inconclusive"
    return "supported" if (evidence.estimate.mean > 0) == evidence.higher_is_better else "contradicted"


def sentence(evidence: Evidence) -> str:
    """Return the verdict as one sentence with difference, interval, n, p and scope."""
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
    return f"{name} {difference} ({pairs}, p {p}, adjusted {adjusted})"


def _reservation(word: Verdict, evidence: Evidence) -> str:
    if word == "under-powered by design":
        return ""
    if word == "interim":
        return f" {evidence.pending} of {evidence.planned} pairs are still to come; nothing is tested until then."
    if evidence.n < evidence.planned and not can_conclude(evidence.n, evidence.family, evidence.alpha):
        lost = f"Of {evidence.planned} pairs {evidence.planned - evidence.n} ended badly"
        return f" {lost}; the rest cannot reach {evidence.alpha:g}."
    return ""


def design_note(planned: int, family: int, alpha: float) -> str:
    """Return what a design of so many pairs and comparisons can reach; empty where it can conclude."""
    if can_conclude(planned, family, alpha):
        return ""
    least = min(1.0, family * smallest_p(planned))
    comparisons = f"{family} comparison{'s' if family != 1 else ''}"
    return (
        f"Under-powered by design: {planned} pairs and {comparisons} cannot give an adjusted p below {least:.2g}, "
        f"whatever the data; {needed_replicates(family, alpha)} pairs could give one of {alpha:g} or less."
    )
