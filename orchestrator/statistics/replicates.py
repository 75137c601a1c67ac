"""Runs to independent replicates: what n counts.

A run is known by its data split, its teacher's seed and its own (student's) seed. Repeats of all three are averaged,
never counted. Students of one teacher share its luck: where there are several teachers (or splits) the teacher is the
replicate and its students are averaged; where there is one, n counts students, and the claim holds for it alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Key: TypeAlias = tuple[Hashable, ...]
"""What two arms' runs share, outermost first: (split, teacher seed, student seed). None: the arm has no such part."""

NAMES = ("split", "teacher", "student")


@dataclass(frozen=True)
class Replicates:
    """Arm - baseline by independent replicate, and what became of the runs.

    `pairs` counts the pairs of runs behind the differences; `unpaired` are the keys that one arm lacks; `repeats` the
    runs beyond the first of an arm with one key; `note` says in words what n is.
    """

    differences: dict[Key, float]
    pairs: int
    unpaired: tuple[Key, ...]
    repeats: int
    note: str


def paired_differences(
    arm: Mapping[Key, Sequence[float]],
    baseline: Mapping[Key, Sequence[float]],
    *,
    depth: int | None = None,
    names: Sequence[str] = NAMES,
) -> Replicates:
    """Return the paired differences of two arms' runs, given by key as the values of its repeats (finite).

    Parts of the key that one arm does not have (a student that reads no teacher) make no pairs: its counterparts are
    averaged over them. `depth` is the number of leading parts that identify an independent replicate; by default all
    but the last where those take several values (several teachers), else all.
    """
    parts = _shared_parts([*arm, *baseline])
    ours, theirs = _gather(arm, parts), _gather(baseline, parts)
    shared = [key for key in ours if key in theirs]
    depth = independent_depth(shared) if depth is None else min(depth, len(parts))
    groups: dict[Key, list[float]] = defaultdict(list)
    for key in shared:
        groups[key[:depth]].append(_mean(ours[key]) - _mean(theirs[key]))
    unpaired = tuple(key for key in [*ours, *theirs] if (key in ours) != (key in theirs))
    repeats = sum(len(values) - 1 for values in [*arm.values(), *baseline.values()] if values)
    note = _note(len(groups), len(shared), [names[part] for part in parts], depth)
    return Replicates({key: _mean(values) for key, values in groups.items()}, len(shared), unpaired, repeats, note)


def independent_depth(keys: Iterable[Key]) -> int:
    """Return how many leading parts of these keys identify an independent replicate: all, or all but the last."""
    known = list(keys)
    length = len(known[0]) if known else 0
    return length - 1 if length and len({key[:-1] for key in known}) > 1 else length


def _shared_parts(keys: Sequence[Key]) -> list[int]:
    length = len(keys[0]) if keys else 0
    return [part for part in range(length) if all(key[part] is not None for key in keys)]


def _gather(values: Mapping[Key, Sequence[float]], parts: Sequence[int]) -> dict[Key, list[float]]:
    """Return one list of run values per shared key; each original key counts once, as the mean of its repeats."""
    found: dict[Key, list[float]] = defaultdict(list)
    for key, repeats in values.items():
        if repeats:
            found[tuple(key[part] for part in parts)].append(_mean(repeats))
    return found


def _note(n: int, pairs: int, names: Sequence[str], depth: int) -> str:
    if depth < len(names):
        outer, inner = " and ".join(names[:depth]), " and ".join(names[depth:])
        return f"n counts the {n} values of {outer}; {pairs} pairs, those of one {outer} averaged over {inner}"
    return f"n counts the {n} values of {' and '.join(names)}" if names else "the runs share nothing that makes pairs"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
