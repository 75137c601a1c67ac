"""Several comparisons, one claim each: p values adjusted so that no more than alpha of all families err at all.

Comparisons that share their replicates (the ranks of one study: a seed's luck hits all of them) are adjusted together,
by flipping the signs of whole replicates; that keeps their correlation and asks for no more replicates than one
comparison does. Where they do not share them, Holm's bound holds whatever the dependence.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.design import Method
from orchestrator.statistics.estimates import Floats
from orchestrator.statistics.sign_flip import DRAWS, ROUNDING, SLACK, flipped_sums, sign_flip

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Adjusted:
    """Adjusted p values in the order given (None: nothing to test), how they were adjusted, and why so, in words."""

    p: list[float | None]
    method: Method
    reason: str


def adjust(family: Sequence[Mapping[K, float]], *, draws: int = DRAWS, seed: int = 0) -> Adjusted:
    """Return the adjusted two-sided p of every comparison, each given as its paired differences by replicate.

    Westfall-Young where all comparisons have the same replicates, else Holm. A comparison without any difference
    stays in the family and counts with p = 1.
    """
    method, reason = method_for([frozenset(differences) for differences in family])
    if method == "westfall-young":
        keys = list(family[0])
        table = np.array([[differences[key] for differences in family] for key in keys], dtype=float)
        return Adjusted(list(westfall_young(table, draws=draws, seed=seed)), method, reason)
    plain = [sign_flip(list(d.values()), draws=draws, seed=seed).p if d else 1.0 for d in family]
    adjusted = holm(plain)
    return Adjusted([p if d else None for p, d in zip(adjusted, family, strict=True)], method, reason)


def method_for(replicates: Sequence[frozenset[Hashable]]) -> tuple[Method, str]:
    """Return how a family of comparisons with these replicates is adjusted, and the reason in words."""
    if len(replicates) <= 1:
        return "none", "one comparison: nothing to adjust"
    union = frozenset().union(*replicates)
    lacking = [replicate for replicate in replicates if replicate != union]
    if not lacking and union:
        return "westfall-young", f"the {len(replicates)} comparisons share their {len(union)} replicates"
    few = f"{len(lacking)} of {len(replicates)} comparisons lack replicates that others have"
    return "holm", few if union else "no comparison has a replicate"


def westfall_young(differences: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> list[float]:
    """Return the step-down max-|t| adjusted p of the columns of `differences` (n replicates, m comparisons).

    Westfall & Young 1993, algorithm 4.1, with the signs of whole rows flipped: exact up to 20 replicates, else Monte
    Carlo. The family-wise error is at most alpha, whichever hypotheses hold, if rows are independent and, for those
    that hold, a row is as likely as its negative. |sum| / sqrt(n * sum of squares) stands for |t|: it grows with it,
    and flips leave its denominator alone. A column of zeros has p = 1.
    """
    d = np.asarray(differences, dtype=float)
    if d.ndim != 2 or not np.isfinite(d).all():
        raise ValueError("give a table (replicates, comparisons) without a missing or infinite value")
    if d.size == 0:
        return [1.0] * d.shape[1]
    scaled = _scaled(d)
    observed = np.abs(scaled.sum(axis=0))
    order = np.argsort(-observed, kind="stable")
    hits, patterns = np.zeros(len(order)), 0
    for sums in flipped_sums(scaled[:, order], draws=draws, seed=seed):
        most = np.maximum.accumulate(np.abs(sums)[:, ::-1], axis=1)[:, ::-1]
        hits += (most >= observed[order] * (1 - SLACK) - ROUNDING).sum(axis=0)
        patterns += len(sums)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(hits / patterns)
    return [float(p) for p in adjusted]


def _scaled(d: Floats) -> Floats:
    """Return columns whose absolute sum is |t| on a scale from 0 to 1."""
    norm = np.sqrt(len(d) * (d**2).sum(axis=0))
    return d / np.where(norm > 0, norm, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p, in the order given (Holm 1979); a missing test counts with p = 1."""
    m, running, adjusted = len(p_values), 0.0, [1.0] * len(p_values)
    for step, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (m - step) * p_values[index]))
        adjusted[index] = running
    return adjusted
