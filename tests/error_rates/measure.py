"""The worlds that are simulated, and what is counted in each: errors, coverage, power."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator.statistics import Interval, power_of_difference, proportion, sign_flip
from tests.error_rates.path import ALPHA, replicates, verdicts
from tests.error_rates.worlds import (
    Drawn,
    World,
    correlated,
    draw,
    gamma,
    laplace,
    normal,
    skewed_alike,
    skewed_apart,
    unequal,
)

FAMILIES = 2500
"""Studies simulated in each world: at 5 % the standard error is .4 %."""
SD_3_TO_1 = (3.0, 1.0)

MEETING = (
    World("normal, 5 ranks, n 6", normal, n=6, ranks=5),
    World("normal, 4 comparisons with seeds of their own (Holm), n 8", normal, n=8, ranks=4, has_own_seeds=True),
    World("ranks correlated .8, 5 ranks", correlated, ranks=5),
    World("Laplace, n 8", laplace, n=8),
    World("arm with 3 times the sd, each rank and seed its own", unequal, sds=SD_3_TO_1),
    World("lognormal in both arms", skewed_alike),
    World("2 of 5 ranks null, the others at 2 sd", normal, ranks=5, effect=(2.0, 2.0, 2.0)),
    World("rates alike, chosen by 1 tuning seed; sd 3 to 1", normal, sds=SD_3_TO_1, tuning=1),
    World("rates alike, chosen by 2 tuning seeds; lognormal", skewed_alike, tuning=2),
    World("rates matter, 1 tuning seed; held against these rates", normal, tuning=1, curve=1.0, is_meant="these"),
    World("looks after 8, 10, 12", normal, n=12, sizes=(8, 10, 12)),
    World("looks after 6, 7, ..., 12; one comparison", normal, n=12, ranks=1, sizes=tuple(range(6, 13))),
    World("looks after 8, 12; seeds of their own (Holm)", normal, n=12, sizes=(8, 12), has_own_seeds=True),
    World("7 teachers x 3 students, between-teacher sd 0.5", normal, n=3, teachers=7, between=0.5),
    World("7 teachers x 3 students, between-teacher sd 1", normal, n=3, teachers=7, between=1.0),
    World("1 teacher, sd 1, n 8; held against this teacher", normal, n=8, between=1.0, is_meant="these"),
    World(
        "all of it: 1 tuning seed, sd 3 to 1, teachers (sd 1) x 2, looks after 7, 10",
        laplace,
        n=2,
        sds=SD_3_TO_1,
        tuning=1,
        teachers=10,
        between=1.0,
        sizes=(7, 10),
    ),
    World("equivalence: true difference at the margin, n 8", normal, n=8, effect=(0.8,) * 3, margin=0.8),
)
"""Worlds that meet the tests' assumptions."""
OTHERS = (
    World("skewed: lognormal against a constant, n 6", skewed_apart, n=6, meets=False),
    World("skewed: lognormal against a constant, n 12", skewed_apart, n=12, meets=False),
    World("skewed and unequal: exponential, sd 3 to 1", gamma, sds=SD_3_TO_1, meets=False),
    World("rates matter, 1 tuning seed; held against the best rates", normal, tuning=1, curve=1.0, meets=False),
    World("rates matter, 3 tuning seeds; held against the best rates", normal, tuning=3, curve=1.0, meets=False),
    World("rates matter, 10 tuning seeds; held against the best rates", normal, tuning=10, curve=1.0, meets=False),
    World("1 teacher, sd 0.5, n 8; held against all teachers", normal, n=8, ranks=1, between=0.5, meets=False),
    World("1 teacher, sd 1, n 8; held against all teachers", normal, n=8, ranks=1, between=1.0, meets=False),
    World("rates chosen on the judged runs; sd 3 to 1", normal, sds=SD_3_TO_1, is_tuned_on_judged=True, meets=False),
    World("seven looks at .05 each", normal, n=12, ranks=1, sizes=tuple(range(6, 13)), shares_alpha=False, meets=False),
)
"""Worlds that do not: reported as they are."""


@dataclass(frozen=True)
class Rate:
    """A share that was counted, with its limits: 95 % for errors and power, 99 % one-sided in `lower_99`."""

    hits: int
    total: int

    @property
    def share(self) -> float:
        """The share."""
        return self.hits / self.total

    @property
    def interval(self) -> Interval:
        """The 95 % Clopper-Pearson interval."""
        found = proportion(self.hits, self.total).interval
        assert found is not None
        return found

    @property
    def lower_99(self) -> float:
        """The lower one-sided 99 % limit."""
        found = proportion(self.hits, self.total, 0.98).interval
        assert found is not None
        return found.low


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng([2026, zlib.crc32(name.encode())])


def errors(world: World, families: int = FAMILIES) -> Rate:
    """Return in how many simulated studies some comparison got a wrong verdict."""
    rng = _rng(world.name)
    return Rate(sum(_is_wrong(world, draw(world, rng)) for _ in range(families)), families)


def _is_wrong(world: World, drawn: Drawn) -> bool:
    """Say whether a claim has no true difference behind it, or one of the other sign; or one too large to be within."""
    for word, truth in zip(verdicts(world, drawn), drawn.truth, strict=True):
        sign = 0 if abs(truth) < 1e-12 else np.sign(truth)
        if (word == "supported" and sign >= 0) or (word == "contradicted" and sign <= 0):
            return True
        if word == "equivalent" and world.margin is not None and abs(truth) >= world.margin * world.sd - 1e-12:
            return True
    return False


# -- choosing rates ---------------------------------------------------------------------------------------

CHOSEN = 1000
"""Studies simulated for each rule of choosing and each world: at 5 % the standard error is .7 %."""
RULES: dict[str, dict[str, Any]] = {
    "1 seed": {"tuning": 1},
    "2 seeds": {"tuning": 2},
    "5 seeds": {"tuning": 5},
    "8 seeds": {"tuning": 8},
    "race, 2 to 8 seeds": {"tuning": 8, "start": 2},
    "race, 2 to 16 seeds": {"tuning": 16, "start": 2},
    "each of the 7 replicates its own, 1 seed": {"tuning": 1, "is_nested": True},
}
"""Ways to choose among rates: on so many seeds each; racing; or every replicate for itself."""
COSTS: dict[str, dict[str, Any]] = {
    "0.5 sd": {"curve": 0.5},
    "1 sd": {"curve": 1.0},
    "2 sd": {"curve": 2.0},
    "1 sd, arms' sd 3 to 1": {"curve": 1.0, "sds": SD_3_TO_1},
}
"""What a rate half a decade off costs."""


def choosing(rule: str, cost: str, families: int = CHOSEN) -> tuple[Rate, float]:
    """Return in how many studies of equal arms some claim is wrong of the arms at their best, by one rule of choosing.

    With it the tuning runs of a choice, on average.
    """
    world = World(f"{rule}; {cost}", normal, **RULES[rule], **COSTS[cost])
    rng = _rng(world.name)
    studies = [draw(world, rng) for _ in range(families)]
    rate = Rate(sum(_is_wrong(world, drawn) for drawn in studies), families)
    return rate, float(np.mean([drawn.tuning_runs for drawn in studies]))


# -- coverage ---------------------------------------------------------------------------------------------

COVERED = (
    *(World(f"normal, n {n}", normal, n=n, ranks=1, effect=(1.0,)) for n in (6, 8, 12)),
    *(World(f"Laplace, n {n}", laplace, n=n, ranks=1, effect=(1.0,)) for n in (6, 12)),
    World("7 teachers x 3 students, sd 1; of all teachers", normal, n=3, ranks=1, teachers=7, between=1.0),
    World("rates chosen by 1 tuning seed, alike; sd 3 to 1, n 7", normal, ranks=1, sds=SD_3_TO_1, tuning=1),
    World("skewed: lognormal against a constant, n 6", skewed_apart, n=6, ranks=1, meets=False),
    World("skewed: lognormal against a constant, n 12", skewed_apart, n=12, ranks=1, meets=False),
    World("1 teacher, sd 1, n 8; of all teachers", normal, n=8, ranks=1, between=1.0, meets=False),
    World(
        "rates chosen on the judged runs, sd 3 to 1",
        normal,
        ranks=1,
        sds=SD_3_TO_1,
        is_tuned_on_judged=True,
        meets=False,
    ),
)


def nominal(world: World) -> float:
    """Return how often the interval covers if replicates are independent and symmetric: exactly, for it is discrete."""
    n = world.n if world.teachers == 1 else world.teachers
    return 1 - float(np.floor(ALPHA * 2 ** (n - 1))) / 2 ** (n - 1)


def coverage(world: World, families: int = FAMILIES) -> tuple[Rate, float]:
    """Return in how many simulated studies the 95 % interval of the one comparison holds the true difference.

    With it the bias: how far the estimates lie from that on average, in sd of a difference.
    """
    rng, hits, off = _rng(world.name), 0, 0.0
    for _ in range(families):
        drawn = draw(world, rng)
        (differences,) = replicates(world, drawn, max(world.n, world.teachers))
        found = sign_flip(list(differences.values())).estimate
        hits += found.interval is not None and found.interval.low <= drawn.truth[0] <= found.interval.high
        off += found.mean - float(drawn.truth[0])
    return Rate(hits, families), off / families / world.sd


# -- power ------------------------------------------------------------------------------------------------

STUDIES = 400
"""Studies simulated for power, with as many comparisons each as there are ranks."""


def _alike(name: str, n: int, d_z: float, **settings: object) -> World:
    ranks = int(str(settings.pop("ranks", 3)))
    return replace(World(name, normal, n=n, ranks=ranks, effect=(-d_z,) * ranks), **settings)  # type: ignore[arg-type]


POWERED = (
    *(_alike("Westfall-Young, 3 ranks", n, d_z) for n, d_z in ((7, 0.5), (7, 1.0), (7, 1.5), (7, 2.0), (12, 1.0))),
    *(_alike("Westfall-Young, 5 ranks", n, 2.0, ranks=5) for n in (6, 8)),
    *(_alike("Holm, 5 comparisons", n, 2.0, ranks=5, has_own_seeds=True) for n in (6, 8)),
    *(_alike(f"looks after {', '.join(map(str, s))}", 12, 1.0, sizes=s) for s in ((8, 12), (8, 10, 12))),
    _alike("7 teachers x 3 students, between-teacher sd 0.5", 3, 1.0, teachers=7, between=0.5),
    _alike("1 tuning seed, rates matter", 7, 1.5, tuning=1, curve=1.0),
    _alike("race on 2 to 8 tuning seeds, rates matter", 7, 1.5, tuning=8, start=2, curve=1.0),
)


def power(world: World, studies: int = STUDIES) -> Rate:
    """Return how many of the true differences were supported, over all comparisons of all studies."""
    rng = _rng(f"{world.name} {world.n} {world.effect}")
    hits = sum(verdicts(world, draw(world, rng)).count("supported") for _ in range(studies))
    return Rate(hits, studies * world.ranks)


def reckoned(world: World) -> float | None:
    """Return the power that `plan` and the deciding command reckon with; None where they know no formula."""
    if world.sizes or world.teachers > 1 or world.tuning:
        return None
    method = "holm" if world.has_own_seeds else "westfall-young"
    return power_of_difference(world.n, world.effect[0], world.ranks, method=method, alpha=ALPHA)
