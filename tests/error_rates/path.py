"""From the losses of one simulated study to its verdicts: replicates, adjusted p, looks, and the report's own verdict.

What is left out of the report's path is its table of text and numbers, which takes longer than all else; that both give
the same verdicts is a test (test_error_rates.py).
"""

from __future__ import annotations

from orchestrator.design import Look, share_alpha
from orchestrator.report.summary import Number, Verdict
from orchestrator.report.verdicts import Evidence, verdict
from orchestrator.statistics import adjust, equivalence, holm, method_for, paired_differences
from orchestrator.statistics.replicates import Key
from tests.error_rates.worlds import Drawn, World

ALPHA = 0.05


def verdicts(world: World, drawn: Drawn) -> list[Verdict]:
    """Return the verdict of every comparison: the first claim at a declared look, else that of the end."""
    found: list[Verdict] = []
    largest = drawn.arm.shape[1 if world.teachers == 1 else 0]
    for size in world.sizes or (largest,):
        now = _at_look(world, drawn, size, largest)
        kept = found or now
        found = [old if old in ("supported", "contradicted") else new for old, new in zip(kept, now, strict=True)]
    return found


def replicates(world: World, drawn: Drawn, size: int) -> list[dict[Key, float]]:
    """Return the differences by replicate of every comparison, of the first `size` replicates."""
    teachers, students, ranks = drawn.arm.shape
    pairs = [(t, s) for t in range(teachers) for s in range(students) if (s if teachers == 1 else t) < size]
    family = []
    for rank in range(ranks):
        shift = 100 * rank if world.has_own_seeds else 0
        ours, theirs = (
            {(0, t + (shift if teachers > 1 else 0), s + shift): [float(losses[t, s, rank])] for t, s in pairs}
            for losses in (drawn.arm, drawn.baseline)
        )
        family.append(paired_differences(ours, theirs).differences)
    return family


def _at_look(world: World, drawn: Drawn, size: int, largest: int) -> list[Verdict]:
    family = replicates(world, drawn, size)
    method, _ = method_for([frozenset(differences) for differences in family])
    looks = share_alpha(world.sizes, ALPHA, method=method) if world.sizes else ()
    looks = looks if world.shares_alpha else tuple(Look(look.n, ALPHA) for look in looks)
    margin = None if world.margin is None else world.margin * world.sd
    within: list[float | None] = [None] * len(family)
    if margin is not None:
        within = [*holm([equivalence(list(differences.values()), margin).p for differences in family])]
    found = []
    for differences, p, p_equivalent in zip(family, adjust(family).p, within, strict=True):
        values = list(differences.values())
        evidence = Evidence(
            arm="arm",
            baseline="baseline",
            group={},
            metric="loss",
            higher_is_better=False,
            estimate=Number(mean=sum(values) / len(values), n=len(values)),
            p=None,
            p_adjusted=p,
            planned=largest,
            pending=largest - len(values),
            family=len(family),
            alpha=ALPHA,
            scope="",
            method=method,
            looks=looks,
            margin=margin,
            p_equivalent=p_equivalent,
        )
        found.append(verdict(evidence))
    return found
