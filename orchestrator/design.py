"""Can a design conclude at all? Known before anything runs, and without any library.

An exact sign-flip test of n pairs has 2^n equally likely outcomes and is symmetric, so that its smallest two-sided p
is 2^(1-n). Holm's adjustment multiplies the smallest of m by m; Westfall-Young's leaves it as it is, for the m
comparisons flip together. The levels of several looks add up to alpha.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeAlias

Method: TypeAlias = Literal["none", "westfall-young", "holm"]
"""How the p values of a family are adjusted; "none" for a family of one."""
EXACT_UP_TO = 20
"""Pairs up to which all 2^n signs are enumerated; beyond, p is Monte Carlo."""


def smallest_p(n: int) -> float:
    """Return the smallest two-sided p that an exact sign-flip test of `n` pairs can give: 2^(1-n), at most 1."""
    return 2.0 ** (1 - n) if n > 0 else 1.0


def smallest_adjusted_p(n: int, m: int, method: Method = "holm") -> float:
    """Return the smallest adjusted p of a family of `m` comparisons with `n` pairs each.

    The same holds for equivalence within a margin: its p is twice the larger of two one-sided ones, each 2^-n at least,
    and is adjusted by Holm in every family.
    """
    return min(1.0, smallest_p(n) * (m if method == "holm" else 1))


def can_conclude(n: int, m: int, alpha: float = 0.05, *, method: Method = "holm") -> bool:
    """Say whether the smallest of `m` adjusted p of tests with `n` pairs each can reach `alpha`."""
    return n > 0 and smallest_adjusted_p(n, m, method) <= alpha


def needed_replicates(m: int, alpha: float = 0.05, *, method: Method = "holm", looks: int = 1) -> int:
    """Return the least (largest) number of pairs with which a family of `m` comparisons can reach `alpha`.

    With several looks they are spread evenly, the last at that number, and one of them at least can conclude.
    """
    n = looks
    while not can_conclude_at(share_alpha(spread(n, looks), alpha, method=method), m, method=method):
        n += 1
    return n


def needed_for_equivalence(m: int, alpha: float = 0.05) -> int:
    """Return the least number of pairs with which any of `m` comparisons can be shown to lie within a margin."""
    return needed_replicates(m, alpha, method="holm")


@dataclass(frozen=True)
class Look:
    """One declared look at the data: after `n` pairs, adjusted p are held against `level`."""

    n: int
    level: float


def spread(largest: int, looks: int) -> list[int]:
    """Return the sizes of so many looks, evenly spread up to `largest` pairs."""
    return [math.ceil(largest * (k + 1) / looks) for k in range(looks)]


def share_alpha(sizes: Sequence[int], alpha: float = 0.05, *, method: Method = "holm") -> tuple[Look, ...]:
    """Return the level of each of the declared looks after `sizes` pairs (increasing); the last is the largest n.

    The levels are the steps of the O'Brien-Fleming-like spending function 2 - 2 Phi(z / sqrt(n / largest)), z the
    two-sided normal quantile of alpha (Lan & DeMets 1983), and add up to alpha. A look errs with at most its level, so
    all together err with at most alpha (Bonferroni's inequality), whatever the tests' dependence. This is proved, at
    the price of power where looks are many: at d_z 1 and three ranks, one look after 12 pairs supports 82 % of the real
    differences, looks after 8 and 12 78 %, after 8, 10 and 12 68 % (docs/error_rates.md).

    An exact test spends only multiples of 2^(1-n), and what it cannot spend goes to the next look; under Holm, where
    the multiple depends on which hypotheses hold, nothing is passed on.
    """
    _check(sizes)
    if len(sizes) == 1:
        return (Look(sizes[0], alpha),)
    found: list[Look] = []
    spent = before = 0.0
    for n in sizes:
        total = alpha if n == sizes[-1] else _spending(n / sizes[-1], alpha)
        level = total - (before if method == "holm" else spent)
        spent, before = spent + attained(level, n), total
        found.append(Look(n, level))
    return tuple(found)


def can_conclude_at(looks: Sequence[Look], m: int, *, method: Method = "holm") -> bool:
    """Say whether the smallest of `m` adjusted p can reach its level at one of the looks."""
    return any(can_conclude(look.n, m, look.level, method=method) for look in looks)


def _check(sizes: Sequence[int]) -> None:
    if not sizes or sizes[0] < 1 or any(a >= b for a, b in itertools.pairwise(sizes)):
        raise ValueError(f"looks after {', '.join(map(str, sizes)) or 'no'} pairs: give increasing numbers from 1 on")


def _spending(share: float, alpha: float) -> float:
    normal = NormalDist()
    return 2 - 2 * normal.cdf(normal.inv_cdf(1 - alpha / 2) / math.sqrt(share))


def attained(level: float, n: int) -> float:
    """Return the largest multiple of 2^(1-n) that is at most `level`: what an exact test of n pairs can spend of it."""
    if n > EXACT_UP_TO:
        return level
    return math.floor(level / smallest_p(n) * (1 + 1e-12)) * smallest_p(n)
