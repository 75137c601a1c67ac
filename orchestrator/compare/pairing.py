"""Runs to pairs: an arm against the baseline by replicate, and what became of pairs that are not there."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.compare.request import Request
from orchestrator.compare.runs import WAITING, Cell, Gathered, Group, Outcome
from orchestrator.errors import UserError
from orchestrator.statistics import Hit, Replicates, common_horizon, kaplan_meier, paired_differences
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
        is_complete = not self.waiting and (not looks or len(self.planned) >= looks[-1])
        return is_complete or len(self.found.differences) in looks


def pair(request: Request, gathered: Gathered, group: Group, arm: str, notes: list[str]) -> Pairing:
    """Return one arm paired with the baseline in one group; what is left out is added to `notes`."""
    sides = [gathered.cells.get((group, name), Cell(group, name)) for name in (arm, request.baseline)]
    named: dict[str, Scalar] = dict(zip(request.by, group, strict=True))
    horizon = _horizon(sides) if request.target is not None else None
    ours, theirs = (_usable(side, horizon) for side in sides)
    depth = _depth(request, sides)
    found = paired_differences(ours, theirs, depth=depth, names=request.key_names)
    everything = paired_differences(
        *({key: [0.0] for key in side.outcomes} for side in sides), depth=depth, names=request.key_names
    )
    planned = frozenset(everything.differences) | {key[:depth] for key in everything.unpaired}
    _check_looks(request, len(planned))
    waiting = {key for side in sides for key, runs in side.outcomes.items() if any(o.fate in WAITING for o in runs)}
    notes += _left_out(request, arm, sides, everything)
    steps = _steps(ours, theirs, sides, horizon, depth) if horizon is not None else None
    return Pairing(named, arm, found, planned, len({key[:depth] for key in waiting}), steps)


def _check_looks(request: Request, planned: int) -> None:
    if request.looks and planned > request.looks[-1]:
        raise UserError(
            f"--looks {','.join(map(str, request.looks))}: {request.table} has {planned} replicates; "
            "the last look is the largest number that was declared"
        )


def _depth(request: Request, sides: Sequence[Cell]) -> int:
    """Return how many of the parts of a key that both arms have make a replicate."""
    keys = [key for side in sides for key in side.outcomes]
    present = [name for at, name in enumerate(request.key_names) if all(key[at] is not None for key in keys)]
    return len([name for name in present if name in request.replicate]) or len(present)


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
    group = f" {name_of(request.by, sides[0].group)}" if request.by else ""
    for side in sides:
        other = request.baseline if side.arm == arm else arm
        alone = [name_of(request.key_names, key) for key in everything.unpaired if key in side.outcomes]
        if alone:
            yield f"{side.arm}{group}: {other} has no run with {_some(alone)}; left out"
        fates = {key: _fate(runs) for key, runs in side.outcomes.items()}
        for fate in sorted(set(fates.values()) - {""}):
            bad = _some([name_of(request.key_names, key) for key, found in fates.items() if found == fate])
            yield f"{side.arm}{group}: {fate} at {bad}; pairs left out, which favours an arm whose runs end badly"


def _fate(runs: Sequence[Outcome]) -> str:
    """Return why a pair has no value; nothing where it has one, waits for one, or never reaches a target."""
    return next((run.fate for run in runs if run.fate and run.fate not in WAITING and run.hit is None), "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def name_of(names: Sequence[str], key: Key) -> str:
    """Return "rank 4 seed 1" of names and values; a part that an arm has not is left out."""
    return " ".join(f"{name} {value}" for name, value in zip(names, key, strict=False) if value is not None)


# -- steps to target --------------------------------------------------------------------------------------


def _horizon(sides: Sequence[Cell]) -> float:
    return common_horizon([run.hit for side in sides for runs in side.outcomes.values() for run in runs if run.hit])


def _steps(
    ours: Mapping[Key, Sequence[float]],
    theirs: Mapping[Key, Sequence[float]],
    sides: Sequence[Cell],
    horizon: float,
    depth: int,
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
