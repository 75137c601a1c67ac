"""How often the whole path errs, covers and detects: simulated, seeded, printed as a table (`-m slow -s`).

The path is the report's: runs -> paired differences by replicate -> adjusted p -> verdict, at every permitted look.
An error is a "supported" or "contradicted" of a comparison whose arms do not differ, once per family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from orchestrator.design import Look, share_alpha
from orchestrator.report.summary import Number
from orchestrator.report.verdicts import Evidence, verdict
from orchestrator.statistics import adjust, method_for, paired_differences, sign_flip

pytestmark = pytest.mark.slow

FAMILIES = 2500
"""Families simulated in each world: at 5 % the standard error is .44 %."""


@dataclass(frozen=True)
class World:
    """Where runs come from: `draw(rng)` gives arm and baseline, each (teachers, students, comparisons).

    Comparisons from `real` on have a difference; those before do not. `meets`: replicates are independent, and where
    there is no difference a replicate's differences are as likely as their negatives.
    """

    name: str
    draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]
    real: int = 99
    meets: bool = True
    sizes: tuple[int, ...] = ()
    shares_alpha: bool = True
    has_own_seeds: bool = False


def decided(world: World, rng: np.random.Generator) -> set[int]:
    """Return the comparisons of one simulated family that were called supported or contradicted at some look."""
    arm, baseline = world.draw(rng)
    found: set[int] = set()
    for size in world.sizes or (arm.shape[1],):
        found |= _judged(world, arm[:, :size], baseline[:, :size], arm.shape[1])
    return found


def _judged(world: World, arm: np.ndarray, baseline: np.ndarray, largest: int) -> set[int]:
    teachers, students, m = arm.shape
    family = []
    for j in range(m):
        shift = 100 * j if world.has_own_seeds else 0
        keys = [(0, t, s) for t in range(teachers) for s in range(students)]
        ours, theirs = ({(0, t, s + shift): [float(x[t, s, j])] for _, t, s in keys} for x in (arm, baseline))
        family.append(paired_differences(ours, theirs).differences)
    adjusted = adjust(family)
    planned = largest if teachers == 1 else teachers
    method, _ = method_for([frozenset(differences) for differences in family])
    looks: tuple[Look, ...] = ()
    if world.sizes:
        looks = share_alpha(world.sizes, method=method)
        looks = looks if world.shares_alpha else tuple(Look(look.n, 0.05) for look in looks)
    found = set()
    for j, differences in enumerate(family):
        test = sign_flip(list(differences.values()))
        evidence = Evidence(
            arm="arm",
            baseline="baseline",
            group={},
            metric="loss",
            higher_is_better=False,
            estimate=Number(mean=test.estimate.mean, n=test.estimate.n),
            p=test.p,
            p_adjusted=adjusted.p[j],
            planned=planned,
            pending=planned - test.estimate.n,
            family=m,
            alpha=0.05,
            scope="",
            method=method,
            looks=looks,
        )
        if verdict(evidence) in ("supported", "contradicted"):
            found.add(j)
    return found


# -- worlds -----------------------------------------------------------------------------------------------


def pairs(noise, n, m, *, teachers=1, effect=0.0, real=0, seed_sd=1.0):
    """Return a draw: both arms share a seed's luck (over all comparisons); `noise(rng, shape)` gives each arm's own."""

    def draw(rng):
        shared = rng.normal(0, seed_sd, size=(teachers, n, 1))
        ours, theirs = noise(rng, (teachers, n, m))
        ours = ours + shared
        ours[..., real:] += effect
        return ours, theirs + shared

    return draw


def normal(rng, shape):
    return rng.normal(size=shape), rng.normal(size=shape)


def correlated(rng, shape):
    """Ranks share most of what an arm does at a seed: correlation .8 between the differences."""
    common = rng.normal(0, 2, size=(*shape[:2], 1))
    return common + rng.normal(size=shape), rng.normal(size=shape)


def laplace(rng, shape):
    return rng.laplace(size=shape), rng.laplace(size=shape)


def unequal(rng, shape):
    """The arm has three times the baseline's sd, every rank its own, and every seed its own as well."""
    scale = np.exp(rng.normal(size=(*shape[:2], 1))) * np.linspace(0.2, 3, shape[2])
    return 3 * scale * rng.normal(size=shape), scale * rng.normal(size=shape)


def skewed_alike(rng, shape):
    """Both arms are lognormal: their difference is symmetric."""
    return rng.lognormal(size=shape), rng.lognormal(size=shape)


def skewed_apart(rng, shape):
    """The arm is lognormal, the baseline hardly varies: the difference has mean zero and is skewed."""
    return rng.lognormal(size=shape) - np.exp(0.5), 0.1 * rng.normal(size=shape)


def skewed_and_unequal(rng, shape):
    """Gamma arms of equal mean, the arm with three times the baseline's sd."""
    return 3 * (rng.gamma(1, size=shape) - 1), rng.gamma(1, size=shape) - 1


def of_teachers(rng, shape):
    """The arm's difference depends on the teacher, with half the sd of a single run's difference."""
    return rng.normal(0, 0.7, size=(shape[0], 1, 1)) + rng.normal(size=shape), rng.normal(size=shape)


def chosen(is_fresh):
    """Return noise of arms whose rate was chosen among three equal ones, by fresh tuning seeds or by the judged runs.

    The arm's runs vary three times as much as the baseline's.
    """

    def noise(rng, shape):
        sides = []
        for sd in (3.0, 1.0):
            judged = rng.normal(0, sd, size=(3, *shape))
            tuning = rng.normal(0, sd, size=(3, *shape)) if is_fresh else judged
            best = tuning.mean(axis=2).argmin(axis=0)
            sides.append(np.take_along_axis(judged, best[None, :, None, :], axis=0)[0])
        return sides[0], sides[1]

    return noise


MEETING = (
    World("normal, 5 ranks, n 6, Westfall-Young", pairs(normal, 6, 5)),
    World("correlated ranks, 5, n 7, Westfall-Young", pairs(correlated, 7, 5)),
    World("Laplace, 3, n 8, Westfall-Young", pairs(laplace, 8, 3)),
    World("unequal variances of arms, ranks and seeds, 3, n 7", pairs(unequal, 7, 3)),
    World("lognormal in both arms, 3, n 7", pairs(skewed_alike, 7, 3)),
    World("normal, 4 with own seeds, n 8, Holm", pairs(normal, 8, 4), has_own_seeds=True),
    World("2 nulls among 5 ranks, others at 2 sd, n 7", pairs(normal, 7, 5, effect=2.8, real=2), real=2),
    World("looks after 8, 10, 12; 3 ranks", pairs(normal, 12, 3), sizes=(8, 10, 12)),
    World("looks after 6, 7, ..., 12; one comparison", pairs(normal, 12, 1), sizes=tuple(range(6, 13))),
    World("looks, own seeds, Holm, after 8, 12; 3", pairs(normal, 12, 3), sizes=(8, 12), has_own_seeds=True),
    World("7 teachers x 3 students, n counts teachers", pairs(of_teachers, 3, 3, teachers=7)),
    World("rate chosen on tuning seeds, n 8", pairs(chosen(True), 8, 3)),
)
OTHERS = (
    World("lognormal against a constant, n 6, 3", pairs(skewed_apart, 6, 3), meets=False),
    World("lognormal against a constant, n 12, 3", pairs(skewed_apart, 12, 3), meets=False),
    World("gamma, sd 3 against 1, n 8, 3", pairs(skewed_and_unequal, 8, 3), meets=False),
    World("one teacher, n 8 counts its students", pairs(of_teachers, 8, 1), meets=False),
    World("seven looks at .05 each", pairs(normal, 12, 1), sizes=tuple(range(6, 13)), shares_alpha=False, meets=False),
    World("rate chosen on the judged runs, n 8", pairs(chosen(False), 8, 1), meets=False),
)


def errors(world: World, families: int = FAMILIES) -> tuple[int, int]:
    """Return how many simulated families held a wrong claim, and their number."""
    rng = np.random.default_rng(2026)
    return sum(any(j < world.real for j in decided(world, rng)) for _ in range(families)), families


def limits(hits: int, total: int) -> tuple[float, float]:
    """Return the Clopper-Pearson limits of a share, each at 99 %."""
    exact = stats.binomtest(hits, total).proportion_ci(0.98)
    return float(exact.low), float(exact.high)


def test_the_family_wise_error_of_claims_is_at_most_alpha_where_the_assumptions_hold():
    print(f"\n{'family-wise error of supported or contradicted':<54} {'%':>5}  98 % interval")
    kept = {}
    for world in (*MEETING, *OTHERS):
        hits, total = errors(world)
        low, high = limits(hits, total)
        note = "" if world.meets else "  (assumptions not met)"
        print(f"{world.name:<54} {100 * hits / total:5.1f}  [{100 * low:.1f}, {100 * high:.1f}]{note}")
        kept[world.name] = low
    assert all(kept[world.name] <= 0.05 for world in MEETING)
    assert max(kept[world.name] for world in OTHERS) > 0.05, "the simulation sees errors where there are some"


@pytest.mark.parametrize("n", [6, 8, 12])
def test_inverted_intervals_cover_as_often_as_they_say(n):
    rng = np.random.default_rng(n)
    exact = 1 - np.floor(0.05 * 2 ** (n - 1)) / 2 ** (n - 1)
    for name, noise in (("normal", normal), ("Laplace", laplace), ("skewed", skewed_apart)):
        hits = 0
        for _ in range(2000):
            ours, theirs = noise(rng, (1, n, 1))
            interval = sign_flip((ours - theirs).ravel()).estimate.interval
            hits += interval is not None and interval.low <= 0 <= interval.high
        low, high = limits(hits, 2000)
        print(f"coverage of 95 % intervals, {name}, n {n}: {hits / 20:.1f} [{100 * low:.1f}, {100 * high:.1f}]", end="")
        print(f", exactly {100 * exact:.1f} if symmetric" if name != "skewed" else "  (assumption not met)")
        assert name == "skewed" or low <= exact <= high


def test_power_at_a_known_effect_and_what_the_choice_of_adjustment_costs():
    """Differences have sd sqrt 2; the effect is given in units of it (d_z)."""
    print(f"\n{'share of real differences supported':<54} {'%':>5}")
    power = {}
    for name, own, n, effect in (
        ("WY 6", False, 6, 2.0),
        ("Holm 6", True, 6, 2.0),
        ("Holm 8", True, 8, 2.0),
        ("WY 8", False, 8, 2.0),
        ("WY 8 weak", False, 8, 1.0),
        ("WY 12 weak", False, 12, 1.0),
    ):
        world = World(name, pairs(normal, n, 5, effect=-effect * np.sqrt(2)), real=0, has_own_seeds=own)
        rng = np.random.default_rng(7)
        power[name] = sum(len(decided(world, rng)) for _ in range(400)) / (5 * 400)
        print(
            f"{'Holm' if own else 'Westfall-Young'}, 5 ranks, n {n}, d_z {effect:g}".ljust(54),
            f"{100 * power[name]:5.1f}",
        )
    assert power["Holm 6"] == 0, "no data could"
    assert power["WY 6"] > 0.5
    assert power["WY 8"] >= power["Holm 8"] - 0.03
    assert power["WY 12 weak"] > power["WY 8 weak"]
    for sizes in ((8, 10, 12), (8, 12), (12,)):
        rng = np.random.default_rng(7)
        world = World("", pairs(normal, 12, 3, effect=-np.sqrt(2)), real=0, sizes=sizes)
        share = sum(len(decided(world, rng)) for _ in range(400)) / (3 * 400)
        print(f"looks after {', '.join(map(str, sizes))}, 3 ranks, d_z 1".ljust(54), f"{100 * share:5.1f}")
