"""Can a design conclude at all? Known before anything runs, and without any library.

An exact sign-flip test of n pairs has 2^n equally likely outcomes and is symmetric, so that its smallest
two-sided p is 2^(1-n); Holm's adjustment multiplies the smallest of m by m.
"""

from __future__ import annotations


def smallest_p(n: int) -> float:
    """Return the smallest two-sided p that an exact sign-flip test of `n` pairs can give: 2^(1-n), at most 1."""
    return 2.0 ** (1 - n) if n > 0 else 1.0


def can_conclude(n: int, m: int, alpha: float = 0.05) -> bool:
    """Say whether the smallest of `m` Holm-adjusted p of tests with `n` pairs each can reach `alpha`."""
    return m * smallest_p(n) <= alpha


def needed_replicates(m: int, alpha: float = 0.05) -> int:
    """Return the least number of pairs with which a family of `m` comparisons can reach `alpha`."""
    n = 1
    while not can_conclude(n, m, alpha):
        n += 1
    return n
