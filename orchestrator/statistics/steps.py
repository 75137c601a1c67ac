"""Steps to a target that some runs never reach.

Runs are evaluated now and then, so that a hit is known to lie between two evaluations; runs that never hit within the
horizon are censored there ("> N"), never dropped. What is compared is the step of the evaluation that first shows the
target, restricted to the horizon; the bounds say how far the unseen place of the hits could move it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.statistics.estimates import Estimate, Floats, mean_interval

if TYPE_CHECKING:
    from scipy.stats import CensoredData


@dataclass(frozen=True)
class Hit:
    """Where a run reached its target: later than `after` and not later than `by` steps; `by` is None if it never did.

    A hit at step 0 is 0 to 0. `last` is the last step with a finite value; a run that diverged will never hit.
    """

    by: float | None
    after: float
    last: float
    is_diverged: bool = False
    left_again: bool = False

    def restricted(self, horizon: float, *, earliest: bool = False) -> float:
        """Return min(step of the hit, horizon), the step being the evaluation's, or the earliest it can have been."""
        return horizon if self.by is None else min(self.after if earliest else self.by, horizon)


@dataclass(frozen=True)
class Survival:
    """The Kaplan-Meier share of runs that have not reached the target after each of `steps` (increasing)."""

    steps: tuple[float, ...]
    share: tuple[float, ...]
    horizon: float

    @property
    def restricted_mean(self) -> float:
        """The area under the curve up to the horizon: the mean number of steps spent short of the target."""
        ends = [*(step for step in self.steps if step < self.horizon), self.horizon]
        heights = [1.0, *self.share]
        starts = [0.0, *ends[:-1]]
        return sum(height * (end - start) for height, start, end in zip(heights, starts, ends, strict=False))


@dataclass(frozen=True)
class StepsToTarget:
    """Steps to a target over several runs, those that never reached it censored at the horizon.

    `median` is None if the middle run never reached the target; `restricted` is the mean of min(steps, horizon),
    which is unbiased for the restricted mean because censoring happens at the horizon only.
    """

    reached: int
    n: int
    horizon: int
    median: float | None
    restricted: Estimate

    def __str__(self) -> str:
        """Return the median, as "> N" where it is censored."""
        return f"> {self.horizon}" if self.median is None else f"{self.median:g}"


def steps_to_target(steps: Sequence[float | None], horizon: int) -> StepsToTarget:
    """Return the summary of steps to target of runs with one horizon; None is a run that never got there."""
    ordered = sorted(math.inf if step is None else float(step) for step in steps)
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    median = sum(middle) / len(middle) if middle and math.isfinite(middle[-1]) else None
    restricted = mean_interval([min(step, horizon) for step in ordered])
    reached = sum(math.isfinite(step) for step in ordered)
    return StepsToTarget(reached, len(ordered), horizon, median, restricted)


def first_hit(steps: Sequence[float], values: Sequence[float], target: float, *, higher_is_better: bool) -> Hit:
    """Return where a curve of (increasing) `steps` first reaches `target`, at it or beyond; NaN values reach nothing.

    A hit at the first evaluation lies between step 0 and it. A curve that ends in NaN has diverged.
    """
    sign = 1.0 if higher_is_better else -1.0
    finite = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    is_diverged = bool(len(values)) and not math.isfinite(values[-1])
    last = finite[-1][0] if finite else 0.0
    before = 0.0
    for place, (step, value) in enumerate(finite):
        if sign * value >= sign * target:
            left = any(sign * later < sign * target for _, later in finite[place + 1 :])
            return Hit(step, before, last, is_diverged, left)
        before = step
    return Hit(None, last, last, is_diverged)


def common_horizon(hits: Sequence[Hit]) -> float:
    """Return the step up to which all these runs can be compared.

    The shortest run that neither hit nor diverged ends it; where there is none, the longest run does.
    """
    open_ends = [hit.last for hit in hits if hit.by is None and not hit.is_diverged]
    return min(open_ends) if open_ends else max((hit.last for hit in hits), default=0.0)


def kaplan_meier(hits: Sequence[Hit], horizon: float) -> Survival:
    """Return the share of runs short of the target (scipy.stats.ecdf), diverged runs censored at the horizon."""
    from scipy import stats

    curve = stats.ecdf(_censored(hits, horizon)).sf
    return Survival(tuple(map(float, curve.quantiles)), tuple(map(float, curve.probabilities)), horizon)


def logrank(arm: Sequence[Hit], baseline: Sequence[Hit], horizon: float) -> float:
    """Return the log-rank p of two arms' steps to target (scipy.stats.logrank): unpaired, approximate; exploratory."""
    from scipy import stats

    return float(stats.logrank(_censored(arm, horizon), _censored(baseline, horizon)).pvalue)


def _censored(hits: Sequence[Hit], horizon: float) -> CensoredData:
    """Return the steps as scipy wants them; a run that stopped short of the horizon is censored where it stopped."""
    from scipy import stats

    never = [hit.by is None or hit.by > horizon for hit in hits]
    ends: Floats = np.array([_end(hit, horizon) for hit in hits], dtype=float)
    return stats.CensoredData.right_censored(ends, np.array(never))


def _end(hit: Hit, horizon: float) -> float:
    if hit.by is not None or hit.is_diverged:
        return hit.restricted(horizon)
    return min(hit.last, horizon)
