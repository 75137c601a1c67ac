"""Does the difference between the arms depend on the rank?

A replicate gives one difference per rank. Centred within the replicate, they hold what is specific to a rank; if the
difference is the same at all ranks, that is noise, and a replicate's centred row as likely as its negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.statistics.families import westfall_young
from orchestrator.statistics.sign_flip import Paired, sign_flip


@dataclass(frozen=True)
class Interaction:
    """`p`: do the differences depend on rank in any way. `trend`: their slope per unit of score, paired and tested.

    With scores log2(rank) the slope is the change of the difference for each doubling of the rank.
    """

    p: float
    trend: Paired


def interaction(differences: ArrayLike, scores: Sequence[float]) -> Interaction:
    """Test whether paired `differences` (n replicates, k ranks) have the same centre at every rank.

    Exact joint sign flips of the rows centred at their mean; the statistic is the largest |t| of the k centred
    columns (the first step of Westfall-Young). The null is that a centred row is as likely as its negative: it allows
    unequal variances and correlated ranks, which permuting ranks within a replicate would not. The slope is each
    row's least-squares slope on `scores` (k,), tested by flipping its sign. Raises ValueError for fewer than two ranks
    or equal scores.
    """
    d, x = np.asarray(differences, dtype=float), np.asarray(scores, dtype=float)
    if d.ndim != 2 or d.shape[1] != len(x) or len(set(scores)) < 2 or not np.isfinite(d).all():
        raise ValueError("give a complete table (replicates, ranks) with a score for each of at least two ranks")
    centred = d - d.mean(axis=1, keepdims=True)
    # Rows that differ by rounding alone are equal: the replicates then show no dependence at all.
    centred[np.abs(centred) <= 1e-12 * np.abs(d).max(initial=0.0)] = 0.0
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return Interaction(min(westfall_young(centred)), sign_flip(centred @ weights))
