"""Is the difference smaller than matters? Exact one-sided sign-flip tests against a margin declared beforehand.

All p values here are twice the one-sided ones, so that they are held against the same alpha as the two-sided test's and
agree with its interval: equivalent at alpha means that the whole (1 - alpha) interval lies within the margin. Each
one-sided test is thus made at alpha / 2, as is usual for non-inferiority (ICH E9, 3.3.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.statistics.estimates import finite
from orchestrator.statistics.sign_flip import DRAWS, SLACK, flipped_sums


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (Schuirmann 1987); each p is doubled and at most 1, `p` is the larger of the two.

    `p_below` is small where the mean difference lies below +margin, `p_above` where it lies above -margin.
    """

    margin: float
    p_below: float
    p_above: float

    @property
    def p(self) -> float:
        """The p of "the difference lies within the margin"."""
        return max(self.p_below, self.p_above)


def one_sided(
    differences: ArrayLike,
    alternative: Literal["less", "greater"],
    *,
    value: float = 0.0,
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """Return the one-sided sign-flip p of paired `differences` (n,): is their centre less (greater) than `value`?

    The share of sign patterns of differences - value with a sum at most (at least) the observed one; exact up to 20
    pairs. No pairs give 1.
    """
    d = finite(differences) - value
    if len(d) == 0:
        return 1.0
    d = d if alternative == "less" else -d
    limit = float(d.sum()) + SLACK * float(np.abs(d).sum())
    hits = patterns = 0
    for sums in flipped_sums(d[:, None], draws=draws, seed=seed):
        hits += int((sums <= limit).sum()) + int((-sums <= limit).sum())
        patterns += 2 * len(sums)
    return hits / patterns


def equivalence(differences: ArrayLike, margin: float) -> Equivalence:
    """Test whether the centre of paired `differences` (n,) lies within (-margin, margin); the margin is above 0."""
    _check(margin)
    below = one_sided(differences, "less", value=margin)
    above = one_sided(differences, "greater", value=-margin)
    return Equivalence(margin, min(1.0, 2 * below), min(1.0, 2 * above))


def non_inferiority(differences: ArrayLike, margin: float, *, higher_is_better: bool) -> float:
    """Return the p of "not worse by `margin` or more", doubled: equal to one side of `equivalence`."""
    found = equivalence(differences, margin)
    return found.p_above if higher_is_better else found.p_below


def smallest_not_inferior(
    by_rank: Mapping[int, ArrayLike], margin: float, *, higher_is_better: bool, alpha: float = 0.05
) -> int | None:
    """Return the smallest rank not inferior to the teacher by `margin`; None if not even the largest is.

    `by_rank` holds student - teacher by replicate. Ranks are tested from the largest down, each at alpha, until one
    fails: a fixed sequence needs no adjustment (Maurer, Hothorn & Lehmacher 1995), and skips no rank.
    """
    smallest = None
    for rank in sorted(by_rank, reverse=True):
        if non_inferiority(by_rank[rank], margin, higher_is_better=higher_is_better) > alpha:
            break
        smallest = rank
    return smallest


def _check(margin: float) -> None:
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"a margin of {margin:g}: declare the smallest difference that matters, above 0")
