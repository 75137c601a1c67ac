"""Pairs to claims: tests, the family's adjusted p, verdicts, and for what they hold."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.compare.dependence import Dependence, dependences
from orchestrator.compare.pairing import Pairing, Steps, name_of, pair
from orchestrator.compare.request import Request
from orchestrator.compare.runs import Gathered
from orchestrator.design import Look, Method, needed_for_equivalence, needed_replicates, share_alpha
from orchestrator.report.summary import Number, Verdict
from orchestrator.report.verdicts import Evidence, sentence, verdict
from orchestrator.statistics import (
    Adjusted,
    Paired,
    adjust,
    equivalence,
    holm,
    method_for,
    sign_flip,
)
from trainables.base import Scalar


@dataclass(frozen=True)
class Result:
    """One comparison: the paired difference arm - baseline, its test, and what may be said."""

    group: dict[str, Scalar]
    arm: str
    n: int
    pairs: int
    paired: Paired
    p: float | None
    p_adjusted: float | None
    p_equivalent: float | None
    verdict: Verdict
    sentence: str
    steps: Steps | None


@dataclass(frozen=True)
class Answer:
    """All comparisons of a table, how their p were adjusted and why, and notes in words."""

    request: Request
    results: tuple[Result, ...]
    method: Method
    reason: str
    looks: tuple[Look, ...]
    dependences: tuple[Dependence, ...]
    notes: tuple[str, ...]


def judge(request: Request, gathered: Gathered) -> Answer:
    """Return every arm against the baseline in every group."""
    notes = list(gathered.notes)
    asked = [(group, arm) for group in gathered.groups for arm in gathered.arms[1:]]
    pairings = [pair(request, gathered, *key, notes) for key in asked if key in gathered.cells]
    absent = [key for key in asked if key not in gathered.cells]
    notes += [f"{arm} {name_of(request.by, group)}: no such runs" for group, arm in absent]
    design, why = method_for([pairing.planned for pairing in pairings])
    due = [pairing.is_due(request.looks) for pairing in pairings]
    adjusted = _adjusted(pairings, due) if any(due) else Adjusted([None] * len(pairings), design, why)
    sharing: Method = "holm" if adjusted.method == "holm" else design
    looks = share_alpha(request.looks, request.alpha, method=sharing) if request.looks else ()
    tests = [sign_flip(list(pairing.found.differences.values())) for pairing in pairings]
    margins = _margins(request, pairings, due)
    frame = _Frame(request, adjusted, design, looks, len(pairings), _scope(request, gathered))
    results = tuple(
        frame.result(pairing, test, p, within)
        for pairing, test, p, within in zip(pairings, tests, adjusted.p, margins, strict=True)
    )
    notes += _design_notes(request, pairings, design, _varying(request, gathered))
    cases = [(pairing.arm, pairing.group, pairing.found.differences) for pairing in pairings if not pairing.waiting]
    found = tuple(dependences(request.by, cases))
    return Answer(request, results, adjusted.method, adjusted.reason, looks, found, tuple(dict.fromkeys(notes)))


def _adjusted(pairings: Sequence[Pairing], due: Sequence[bool]) -> Adjusted:
    """Return the family's adjusted p; what still waits is not tested and counts with p = 1.

    The others' adjusted p can then only fall when it comes.
    """
    return adjust([pairing.found.differences if now else {} for pairing, now in zip(pairings, due, strict=True)])


def _margins(request: Request, pairings: Sequence[Pairing], due: Sequence[bool]) -> list[float | None]:
    """Return Holm's adjusted p of "within the margin", as `_adjusted` does; None where no margin was declared."""
    if request.margin is None:
        return [None] * len(pairings)
    values = [
        list(pairing.found.differences.values()) if now else [] for pairing, now in zip(pairings, due, strict=True)
    ]
    return list(holm([equivalence(d, request.margin).p if d else 1.0 for d in values]))


@dataclass(frozen=True)
class _Frame:
    """What all comparisons of one table share."""

    request: Request
    adjusted: Adjusted
    design: Method
    looks: tuple[Look, ...]
    family: int
    scope: str

    def result(self, pairing: Pairing, test: Paired, p_adjusted: float | None, within: float | None) -> Result:
        evidence = self._evidence(pairing, test, p_adjusted, within)
        if evidence.level is None:
            evidence = replace(evidence, p=None, p_adjusted=None, p_equivalent=None)
        return Result(
            group=pairing.group,
            arm=pairing.arm,
            n=evidence.n,
            pairs=pairing.found.pairs,
            paired=test,
            p=evidence.p,
            p_adjusted=evidence.p_adjusted,
            p_equivalent=evidence.p_equivalent,
            verdict=verdict(evidence),
            sentence=sentence(evidence),
            steps=pairing.steps,
        )

    def _evidence(self, pairing: Pairing, test: Paired, p_adjusted: float | None, within: float | None) -> Evidence:
        request, n = self.request, test.estimate.n
        planned = self.looks[-1].n if self.looks else len(pairing.planned)
        pending = max(0, planned - len(pairing.planned)) + pairing.waiting if self.looks else pairing.waiting
        return Evidence(
            arm=pairing.arm,
            baseline=request.baseline,
            group=pairing.group,
            metric=request.outcome,
            higher_is_better=request.is_higher_better,
            estimate=_number(test) if n else None,
            p=test.p if n else None,
            p_adjusted=p_adjusted,
            planned=planned,
            pending=pending,
            family=self.family,
            alpha=request.alpha,
            scope=self.scope,
            method=self.design,
            adjusted_by=self.adjusted.method,
            looks=self.looks,
            margin=request.margin,
            p_equivalent=within,
        )


def _scope(request: Request, gathered: Gathered) -> str:
    """Return for what a verdict holds: other values of what n counts, all else as it was in the table.

    What has one value throughout (one teacher) is no sample of anything: the verdict holds for that value.
    """
    varying = _varying(request, gathered)
    counted = [name for name in request.replicate or request.pair if name in varying]
    fixed = [f"{name} {value}" for name, value in _fixed(request, gathered).items()]
    first = f"for other values of {' and '.join(counted)}" if counted else ""
    second = f"for {', '.join(fixed)} alone" if fixed else ""
    return f"{' and '.join(part for part in (first, second) if part)}, all else as in {request.table}"


def _fixed(request: Request, gathered: Gathered) -> dict[str, Hashable]:
    """Return the parts of a pair that have one value in the whole table, with it."""
    keys = [key for cell in gathered.cells.values() for key in cell.outcomes]
    columns = {name: {key[at] for key in keys} - {None} for at, name in enumerate(request.key_names)}
    return {name: values.pop() for name, values in columns.items() if len(values) == 1}


def _varying(request: Request, gathered: Gathered) -> list[str]:
    fixed = _fixed(request, gathered)
    return [name for name in request.key_names if name not in fixed]


def _design_notes(
    request: Request, pairings: Sequence[Pairing], design: Method, varying: Sequence[str]
) -> Iterator[str]:
    counted = " and ".join(request.replicate or request.pair)
    most = max((len(pairing.planned) for pairing in pairings), default=0)
    need = needed_replicates(len(pairings), request.alpha, method=design, looks=len(request.looks) or 1)
    if most < need:
        yield (
            f"{most} value{'' if most == 1 else 's'} of {counted}: {need} are needed before any data could give "
            f"an adjusted p of {request.alpha:g} or less"
        )
    near = needed_for_equivalence(len(pairings), request.alpha)
    if request.margin is not None and need <= most < near:
        size = len(pairings)
        yield f"{near} values of {counted} are needed before any data could show one of {size} to be equivalent (Holm)"
    if request.replicate:
        yield from (pairing.found.note for pairing in pairings[:1])
    suspects = [name for name in varying if any(word in name.lower() for word in ("teacher", "split", "fold"))]
    if suspects and not request.replicate and len(varying) > 1:
        name = suspects[0]
        yield f"n counts every pair; if those of one {name} share its luck, --replicate {name} averages them"


def _number(test: Paired) -> Number:
    interval = test.estimate.interval
    low, high = (interval.low, interval.high) if interval else (None, None)
    return Number(mean=test.estimate.mean, n=test.estimate.n, low=low, high=high)
