"""At which rank is a student as good as its teacher, and does the difference between the arms depend on the rank?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchestrator import statistics
from orchestrator.compare.dependence import Dependence, dependences
from orchestrator.report import formatting
from orchestrator.report.claims.basis import Basis
from orchestrator.report.claims.words import estimate, listed
from orchestrator.report.family import Pairing
from orchestrator.report.sections import Grid, Section
from orchestrator.statistics import non_inferiority, smallest_not_inferior
from trainables.base import Scalar

Cases = Sequence[tuple[dict[str, Scalar], Pairing]]


def section(basis: Basis) -> Section | None:
    """Return, per arm, the smallest rank not inferior to the teacher, and how the difference depends on the rank."""
    if basis.family.groups != ["rank"]:
        return None
    by_arm = {arm: basis.from_teacher(arm) for arm in basis.family.arms or [""]}
    by_arm = {arm: cases for arm, cases in by_arm.items() if any(pairing.found.differences for _, pairing in cases)}
    paragraphs = [*_smallest(basis, by_arm), *(_dependence(found) for found in _dependences(basis))]
    if not paragraphs:
        return None
    rows = [_row(basis, arm, group, pairing) for arm, cases in by_arm.items() for group, pairing in cases]
    header = ["arm", "rank", "n", f"student − teacher in {basis.family.comparison.metric.replace('_', ' ')}"]
    caption = "Student − teacher, paired, with the 95 % interval of the sign-flip test inverted."
    grid = Grid(header=[*header, "p (not inferior)"], rows=rows, text_columns=2, caption=caption) if rows else None
    grids = [grid] if grid else []
    return Section(name="ranks", title="Students against the teacher", paragraphs=paragraphs, grids=grids)


def _smallest(basis: Basis, by_arm: Mapping[str, Cases]) -> Iterator[str]:
    comparison = basis.family.comparison
    if not by_arm:
        return
    if comparison.margin is None:
        yield (
            "No margin was declared (Comparison.margin), so that no rank can be called as good as the teacher: how "
            "much worse a student may be is for the study to say, before it runs."
        )
        return
    told: dict[str, list[str]] = {}
    for arm, cases in by_arm.items():
        told.setdefault(_smallest_of(basis, cases), []).append(arm or "student")
    shown = "; ".join(f"{listed(arms)} {answer}" for answer, arms in told.items())
    down = ", from the largest rank down until one fails (a fixed sequence)" if len(basis.ranks) > 1 else ""
    yield (
        f"Not inferior to the teacher by the margin of {comparison.margin:g}: {shown}. One-sided sign-flip tests at "
        f"{comparison.alpha / 2:g}{down}; each arm is a question of its own, not adjusted for the others."
    )


def _smallest_of(basis: Basis, cases: Cases) -> str:
    comparison = basis.family.comparison
    if any(pairing.waiting for _, pairing in cases):
        return "interim (replicates are still to come)"
    by_rank = {int(str(group["rank"])): list(pairing.found.differences.values()) for group, pairing in cases}
    assert comparison.margin is not None
    smallest = smallest_not_inferior(
        by_rank, comparison.margin, higher_is_better=comparison.higher_is_better, alpha=comparison.alpha
    )
    if len(by_rank) == 1:
        return f"{'at' if smallest is not None else 'not at'} rank {next(iter(by_rank))}"
    return f"from rank {smallest} on" if smallest is not None else "at no rank"


def _row(basis: Basis, arm: str, group: dict[str, Scalar], pairing: Pairing) -> list[str]:
    comparison, values = basis.family.comparison, list(pairing.found.differences.values())
    p = None
    if comparison.margin is not None and values and not pairing.waiting:
        p = non_inferiority(values, comparison.margin, higher_is_better=comparison.higher_is_better)
    shown = estimate(statistics.sign_flip(values)) if values else formatting.NOTHING
    return [arm or "student", str(group["rank"]), str(len(values)), shown, formatting.p_value(p)]


def _dependences(basis: Basis) -> Iterator[Dependence]:
    known = basis.judged.differences
    if not known or any(item.verdict == "interim" or item.unit == "item" for item in known):
        return
    cases = [
        (item.arm, item.group, dict(zip(item.replicates, item.pairs, strict=True))) for item in basis.judged.differences
    ]
    yield from dependences(["rank"], cases)


def _dependence(found: Dependence) -> str:
    """Say whether an arm's difference depends on the rank; exploratory, so that no verdict rests on it."""
    trend = found.found.trend
    ranks = listed([f"{value:g}" for value in found.values])
    return (
        f"Does {found.arm}'s difference depend on the rank ({ranks})? p {formatting.p_value(found.found.p)} for any "
        f"dependence; change with each doubling {estimate(trend)} (p {formatting.p_value(trend.p)}, {found.n} "
        "replicates; exploratory)."
    )
