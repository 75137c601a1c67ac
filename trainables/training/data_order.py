"""Which items a step sees: a pure function of seed and step, the same in every arm and on every machine."""

from __future__ import annotations

import functools
import hashlib


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, items: int) -> tuple[int, ...]:
    """Return the order of `items` items in one epoch.

    Items are sorted by a hash, so that no version of a random number generator has a say in it.
    """
    salt = f"{seed} {epoch} ".encode()
    return tuple(sorted(range(items), key=lambda item: hashlib.blake2b(salt + b"%d" % item, digest_size=16).digest()))


def step_items(seed: int, step: int, batch_size: int, items: int) -> list[int]:
    """Return the items of step `step` (from 0): epochs follow one another, so that every batch is full."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [epoch_order(seed, position // items, items)[position % items] for position in positions]
