"""Runs to claims: paired differences, adjusted p, verdicts, and what became of pairs that are not there."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.compare.dependence import Dependence, dependences
from orchestrator.compare.request import Request
from orchestrator.compare.runs import WAITING, Cell, Gathered, Group, Outcome
from orchestrator.design import Look, Method, needed_for_equivalence, needed_replicates, share_alpha
from orchestrator.errors import UserError
from orchestrator.report.summary import Number, Verdict
from orchestrator.report.verdicts import Evidence, sentence, verdict
from orchestrator.statistics import (
    Adjusted,
    Hit,
    Paired,
    Replicates,
    adjust,
    common_horizon,
    equivalence,
    holm,
    kaplan_meier,
    method_for,
    paired_differences,
    sign_flip,
)
from orchestrator.statistics.replicates import Key
from trainables.base import Scalar


@dataclass(frozen=True)
class Side:
    """Steps to target of one arm: how many of n runs reached it, median (None: censored) and restricted mean."""

    reached: int
    n: int
    median: float | None
    restricted_mean: float
    hits: Mapping[Key, Sequence[Hit]]


@dataclass(frozen=True)
class Steps:
    """Steps to target of both arms up to one horizon.

    `bounds` hold the mean difference wherever between two evaluations the hits were.
    """

    horizon: float
    arm: Side
    baseline: Side
    bounds: tuple[float, float] | None


@dataclass(frozen=True)
class Pairing:
    """An arm against the baseline in one group, before anything is tested."""

    group: dict[str, Scalar]
    arm: str
    found: Replicates
    planned: frozenset[Hashable]
    waiting: int
    steps: Steps | None

    def is_due(self, looks: Sequence[int]) -> bool:
        """Say whether it may be tested now: all planned pairs are there, or as many as a declared look has."""
        return len(self.found.differences) in looks if looks and self.waiting else not self.waiting


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
    pairings = [_pair(request, gathered, *key, notes) for key in asked if key in gathered.cells]
    absent = [key for key in asked if key not in gathered.cells]
    notes += [f"{arm} {_name(request.by, group)}: no such runs" for group, arm in absent]
    design, _ = method_for([pairing.planned for pairing in pairings])
    # What still waits is not tested, and counts with p = 1: the others' adjusted p can then only fall when it comes.
    adjusted = adjust([pairing.found.differences if pairing.is_due(request.looks) else {} for pairing in pairings])
    sharing: Method = "holm" if adjusted.method == "holm" else design
    looks = share_alpha(request.looks, request.alpha, method=sharing) if request.looks else ()
    tests = [sign_flip(list(pairing.found.differences.values())) for pairing in pairings]
    margins = _margins(request, pairings)
    frame = _Frame(request, adjusted, design, looks, len(pairings), _scope(request, gathered))
    results = tuple(
        frame.result(pairing, test, p, within)
        for pairing, test, p, within in zip(pairings, tests, adjusted.p, margins, strict=True)
    )
    notes += _design_notes(request, pairings, design, _varying(request, gathered))
    cases = [(pairing.arm, pairing.group, pairing.found.differences) for pairing in pairings if not pairing.waiting]
    found = tuple(dependences(request.by, cases))
    return Answer(request, results, adjusted.method, adjusted.reason, looks, found, tuple(dict.fromkeys(notes)))


def _margins(request: Request, pairings: Sequence[Pairing]) -> list[float | None]:
    """Return Holm's adjusted p of "within the margin"; None where no margin was declared."""
    if request.margin is None:
        return [None] * len(pairings)
    values = [list(pairing.found.differences.values()) for pairing in pairings]
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


# -- pairs ------------------------------------------------------------------------------------------------


def _pair(request: Request, gathered: Gathered, group: Group, arm: str, notes: list[str]) -> Pairing:
    sides = [gathered.cells.get((group, name), Cell(group, name)) for name in (arm, request.baseline)]
    named: dict[str, Scalar] = dict(zip(request.by, group, strict=True))
    horizon = _horizon(sides) if request.target is not None else None
    ours, theirs = (_usable(side, horizon) for side in sides)
    depth = _depth(request, sides)
    found = paired_differences(ours, theirs, depth=depth, names=request.key_names)
    everything = paired_differences(
        *({key: [0.0] for key in side.outcomes} for side in sides), depth=depth, names=request.key_names
    )
    counted = len(next(iter(everything.differences), ())) or depth
    planned = frozenset(everything.differences) | {key[:counted] for key in everything.unpaired}
    _check_looks(request, len(planned))
    waiting = {key for side in sides for key, runs in side.outcomes.items() if any(o.fate in WAITING for o in runs)}
    notes += _left_out(request, arm, sides, everything)
    steps = _steps(ours, theirs, sides, horizon, depth) if horizon is not None else None
    return Pairing(named, arm, found, planned, len({key[:counted] for key in waiting}), steps)


def _check_looks(request: Request, planned: int) -> None:
    if request.looks and planned > request.looks[-1]:
        raise UserError(
            f"--looks {','.join(map(str, request.looks))}: {request.table} has {planned} replicates; "
            "the last look is the largest number that was declared"
        )


def _depth(request: Request, sides: Sequence[Cell]) -> int | None:
    """Return how many parts of a key make a replicate; None (the general rule) where an arm lacks a part."""
    if any(part is None for side in sides for key in side.outcomes for part in key):
        return None
    return len(request.replicate) or len(request.key_names)


def _usable(side: Cell, horizon: float | None) -> dict[Key, list[float]]:
    """Return the values of pairs of which every repeat has one: the last value, or the steps up to the horizon."""
    if horizon is None:
        values = {key: [run.value for run in runs] for key, runs in side.outcomes.items()}
    else:
        values = {key: [_restricted(run, horizon) for run in runs] for key, runs in side.outcomes.items()}
    return {key: [v for v in found if v is not None] for key, found in values.items() if None not in found}


def _restricted(run: Outcome, horizon: float, *, earliest: bool = False) -> float | None:
    return run.hit.restricted(horizon, earliest=earliest) if run.hit is not None else None


def _left_out(request: Request, arm: str, sides: Sequence[Cell], everything: Replicates) -> Iterator[str]:
    """Yield, in words, which pairs do not count and why."""
    group = f" {_name(request.by, sides[0].group)}" if request.by else ""
    for side in sides:
        other = request.baseline if side.arm == arm else arm
        alone = [_name(request.key_names, key) for key in everything.unpaired if key in side.outcomes]
        if alone:
            yield f"{side.arm}{group}: {other} has no run with {_some(alone)}; left out"
        fates = {key: _fate(runs) for key, runs in side.outcomes.items()}
        for fate in sorted(set(fates.values()) - {""}):
            bad = _some([_name(request.key_names, key) for key, found in fates.items() if found == fate])
            yield f"{side.arm}{group}: {fate} at {bad}; pairs left out, which favours an arm whose runs end badly"


def _fate(runs: Sequence[Outcome]) -> str:
    """Return why a pair has no value; nothing where it has one, waits for one, or never reaches a target."""
    return next((run.fate for run in runs if run.fate and run.fate not in WAITING and run.hit is None), "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _name(names: Sequence[str], key: Key) -> str:
    return " ".join(f"{name} {value}" for name, value in zip(names, key, strict=False) if value is not None)


# -- steps to target --------------------------------------------------------------------------------------


def _horizon(sides: Sequence[Cell]) -> float:
    return common_horizon([run.hit for side in sides for runs in side.outcomes.values() for run in runs if run.hit])


def _steps(
    ours: Mapping[Key, Sequence[float]],
    theirs: Mapping[Key, Sequence[float]],
    sides: Sequence[Cell],
    horizon: float,
    depth: int | None,
) -> Steps:
    early = [
        {key: [h.restricted(horizon, earliest=True) for h in hits] for key, hits in _hits(side).items()}
        for side in sides
    ]
    low, high = (
        list(paired_differences(a, b, depth=depth, names=[""] * 9).differences.values())
        for a, b in ((early[0], theirs), (ours, early[1]))
    )
    bounds = (sum(low) / len(low), sum(high) / len(high)) if low and high else None
    return Steps(horizon, _side(sides[0], horizon), _side(sides[1], horizon), bounds)


def _hits(side: Cell) -> dict[Key, list[Hit]]:
    found = {key: [run.hit for run in runs if run.hit is not None] for key, runs in side.outcomes.items()}
    return {key: hits for key, hits in found.items() if hits}


def _side(side: Cell, horizon: float) -> Side:
    by_key = _hits(side)
    hits = [hit for found in by_key.values() for hit in found]
    reached = [hit.by for hit in hits if hit.by is not None and hit.by <= horizon]
    curve = kaplan_meier(hits, horizon) if hits else None
    below = [step for step, share in zip(curve.steps, curve.share, strict=True) if share <= 0.5] if curve else []
    mean = curve.restricted_mean if curve else float("nan")
    return Side(len(reached), len(hits), below[0] if below else None, mean, by_key)


# -- words ------------------------------------------------------------------------------------------------


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
