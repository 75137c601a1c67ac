"""Train, validation and test: seeded, whole groups of equal prompts together, nothing on two sides.

Groups are ordered by a hash of seed and prompt, so that neither the order of the file nor records added to it
shuffle the others anew.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainables.base import InputError
from trainables.data.formats import Sample


@dataclass(frozen=True)
class Split:
    """The samples on each side, in the order of the source."""

    train: list[Sample]
    validation: list[Sample]
    test: list[Sample]


def normalised(text: str) -> str:
    """Return the text without what makes no difference between prompts: case and white space."""
    return " ".join(text.casefold().split())


def key(sample: Sample) -> str:
    """Return what makes two samples the same question; for plain text, the text."""
    return normalised(sample.prompt or sample.completion)


def without_duplicates(samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples, each but once: the first of those with the same prompt and completion."""
    first: dict[tuple[str, str], Sample] = {}
    for sample in samples:
        first.setdefault((key(sample), normalised(sample.completion)), sample)
    return list(first.values())


def count_of(share: int | float, total: int) -> int:
    """Return a number of samples from a number, or from a share of the total (at least one)."""
    return share if isinstance(share, int) else max(1, round(share * total))


def split(samples: Sequence[Sample], *, validation: int | float, test: int | float, seed: int) -> Split:
    """Return a seeded split; raises InputError if it leaves nothing to train on."""
    for_test, for_validation = count_of(test, len(samples)), count_of(validation, len(samples))
    if for_test + for_validation >= len(samples):
        raise InputError(
            f"validation {for_validation} + test {for_test} leave nothing of {len(samples)} distinct records to train "
            "on: lower dataset.validation and dataset.test, or give more records"
        )
    members = Counter(map(key, samples))
    tested = _take(_ordered(members, seed), for_test, members)
    held = _take([name for name in _ordered(members, seed) if name not in tested], for_validation, members)
    return _sides(samples, held, tested)


def split_fold(samples: Sequence[Sample], *, folds: int, fold: int, validation: int | float, seed: int) -> Split:
    """Return the split whose test side is part `fold` (from 0): over all folds every sample is tested once."""
    members = Counter(map(key, samples))
    if folds > len(members):
        raise InputError(f"dataset.folds={folds} but there are only {len(members)} distinct prompts: lower it")
    parts = _parts(_ordered(members, seed), members, folds)
    tested = set(parts[fold])
    left = sum(members[name] for name in members if name not in tested)
    wanted = count_of(validation, len(samples))
    if wanted >= left:
        raise InputError(
            f"validation {wanted} leaves nothing of the {left} records outside fold {fold} to train on: "
            "lower dataset.validation, or give more records"
        )
    others = [name for shift in range(1, folds) for name in parts[(fold + shift) % folds]]
    return _sides(samples, _take(others, wanted, members), tested)


def half(samples: Sequence[Sample], part: Literal["first", "second"], *, seed: int) -> list[Sample]:
    """Return one of two disjoint halves of the samples, equal prompts together; InputError if it would be empty."""
    members = Counter(map(key, samples))
    ordered = sorted(members, key=lambda name: hashlib.sha256(f"half {seed}\0{name}".encode()).digest())
    chosen = set(_parts(ordered, members, 2)[("first", "second").index(part)])
    if not chosen:
        raise InputError(
            f"dataset.part={part} is empty: the training side has {len(samples)} records with {len(members)} prompts; "
            "give more records, or set dataset.part=all"
        )
    return [sample for sample in samples if key(sample) in chosen]


def _ordered(members: Mapping[str, int], seed: int) -> list[str]:
    return sorted(members, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())


def _take(names: Iterable[str], wanted: int, members: Mapping[str, int]) -> set[str]:
    """Return groups, in order, whose samples make up `wanted`; a group that is too large is passed over."""
    taken: set[str] = set()
    left = wanted
    for name in names:
        if members[name] <= left:
            taken.add(name)
            left -= members[name]
        if not left:
            break
    return taken


def _parts(names: Iterable[str], members: Mapping[str, int], folds: int) -> list[list[str]]:
    """Deal the groups out in order, each to the part that is smallest so far."""
    parts: list[list[str]] = [[] for _ in range(folds)]
    sizes = [0] * folds
    for name in names:
        smallest = sizes.index(min(sizes))
        parts[smallest].append(name)
        sizes[smallest] += members[name]
    return parts


def _sides(samples: Sequence[Sample], held: set[str], tested: set[str]) -> Split:
    sides = Split([], [], [])
    for sample in samples:
        name = key(sample)
        side = sides.test if name in tested else sides.validation if name in held else sides.train
        side.append(sample)
    empty = [name for name, side in vars(sides).items() if not side]
    if empty:
        raise InputError(
            f"{empty[0]} would be empty: too many records share a prompt; change dataset.{empty[0]} or the records"
        )
    return sides
