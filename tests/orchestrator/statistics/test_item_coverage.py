"""How often inference over items errs and covers: simulated, seeded, printed as a table (`-m slow -s`).

The world is a difference of `item` + `run` + `cell`: what is hard in an item, a run's luck that all its items share,
and the rest, each with its own standard deviation; the true difference is 0. With folds, every item meets the runs of
its own fold alone. "items alone" is the test that forgets the runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from orchestrator.statistics import two_way

pytestmark = pytest.mark.slow

WORLDS = 2000
"""Simulated comparisons in each world: at 95 % the standard error is .49 %."""


@dataclass(frozen=True)
class World:
    """A design and its luck; coverage must lie within `least` and `most`.

    `teacher` is the luck that all runs of a fold share: the interval is for these teachers, and does not cover others.
    """

    items: int
    seeds: int
    folds: int
    item: float
    run: float
    cell: float
    least: float
    most: float = 1.0
    teacher: float = 0.0
    is_skewed: bool = False
    is_binary: bool = False

    def draw(self, rng: np.random.Generator) -> dict:
        """Return {item: {run: difference}}."""
        fold = np.arange(self.items) % self.folds
        a, e = self._of(rng, (self.items, 1)) * self.item, self._of(rng, (self.items, self.seeds)) * self.cell
        b = rng.normal(0, 1, (self.folds, self.seeds)) * self.run
        luck = rng.normal(0, 1, self.folds)[fold][:, None] * self.teacher
        d = a + b[fold] + e + luck
        if self.is_binary:  # right minus right of two arms whose chances differ by d
            chance = np.clip(0.5 + 0.1 * np.stack([d / 2, -d / 2]), 0, 1)
            d = np.subtract(*(rng.random(chance.shape) < chance).astype(float))
        return {i: {(int(fold[i]), s): float(d[i, s]) for s in range(self.seeds)} for i in range(self.items)}

    def _of(self, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        return rng.exponential(1, size) - 1 if self.is_skewed else rng.normal(0, 1, size)


CASES = {
    "40 items, 7 seeds, no luck": World(40, 7, 1, 1, 0, 1, 0.935),
    "81 items, 7 seeds, luck": World(81, 7, 1, 1, 0.3, 1, 0.92),
    "81 items, 3 seeds, luck": World(81, 3, 1, 1, 0.3, 1, 0.915),
    "81 in 5 folds, 1 seed": World(81, 1, 5, 1, 0.3, 1, 0.95),
    "81 in 5 folds, 2 seeds": World(81, 2, 5, 1, 0.3, 1, 0.92),
    "81 in 5 folds, 3 seeds": World(81, 3, 5, 1, 0.3, 1, 0.92),
    "81 in 5 folds, 3 seeds, much luck": World(81, 3, 5, 0.3, 0.3, 1, 0.92),
    "81 in 5 folds, 3 seeds, skewed": World(81, 3, 5, 1, 0.3, 1, 0.92, is_skewed=True),
    "81 in 5 folds, 3 seeds, answers": World(81, 3, 5, 1, 0.3, 1, 0.93, is_binary=True),
    "... for other teachers too": World(81, 3, 5, 1, 0.1, 1, 0.0, most=0.92, teacher=0.3),
}


@pytest.mark.parametrize("name", CASES)
def test_the_interval_over_items_and_runs_covers(name):
    world, rng = CASES[name], np.random.default_rng(20)
    covered = fooled = 0
    for _ in range(WORLDS):
        spread = two_way(world.draw(rng))
        interval = spread.estimate().interval
        covered += interval.low <= 0 <= interval.high
        fooled += stats.ttest_1samp(spread.values, 0).pvalue <= 0.05
    share, error = covered / WORLDS, math.sqrt(0.05 * 0.95 / WORLDS)
    print(f"\n{name:<36} covers {share:.1%} (± {1.96 * error:.1%}), items alone err {fooled / WORLDS:.1%}")
    assert world.least <= share <= world.most
