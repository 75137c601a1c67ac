"""The next point to try, by Optuna: a function of what is known of the others.

The study is made anew for every question, in memory, from the points so far; those that are still running count as bad
(constant liar), so that points asked ahead keep away from each other. Randomness follows from the search's seed and the
number of the point alone: a search that was cut and goes on asks what it would have asked. A point that is there
already, as in a small space, is drawn again a few times.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.search.points import Point
from orchestrator.search.trials import trial_for_sampler
from orchestrator.space import Asked, Float, Int, Range, Search
from trainables.base import Scalar

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler


TRIES = 30
"""Draws of one point before a repeat is taken: at random, the last of six is then missed once in 200 times."""


def suggest(search: Search, points: Sequence[Point]) -> Asked:
    """Return the point to ask for after these; the usual settings come first."""
    number = len(points)
    if number == 0 and search.usual is not None and search.holds(search.usual):
        return Asked(number, dict(search.usual))
    known = [dict(point.at) for point in points]
    for again in range(TRIES):
        asked = _drawn(search, points, again)
        if dict(asked.values) not in known:
            break
    return asked


def _drawn(search: Search, points: Sequence[Point], again: int) -> Asked:
    number = len(points)
    study = _study(search, number, again)
    study.add_trials([trial_for_sampler(point, search) for point in points])
    trial = study.ask()
    values = search.point(lambda axis, of: _chosen(trial, axis, of))
    asked = study.get_trials(deepcopy=False)[-1]
    return Asked(number, values, {key: value for key, value in asked.system_attrs.items() if _is_kept(key)})


def _chosen(trial: optuna.Trial, axis: str, of: Range) -> Scalar:
    if isinstance(of, Float):
        return of.settle(trial.suggest_float(axis, of.low, of.high, log=of.log))
    if isinstance(of, Int):
        return trial.suggest_int(axis, of.low, of.high, log=of.log)
    value: Scalar = trial.suggest_categorical(axis, of.values)
    return value


def sampler_of(search: Search, number: int, again: int = 0) -> BaseSampler:
    """Return the sampler for one point, drawn so many times before."""
    from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

    seed = (search.seed * 1_000_003 + again * 7_654_321 + number) % 2**32
    if search.sampler == "random":
        return RandomSampler(seed=seed)
    if search.sampler == "nsga2":
        return NSGAIISampler(seed=seed, population_size=search.startup)
    return TPESampler(
        seed=seed,
        n_startup_trials=search.startup,
        multivariate=True,
        group=True,
        constant_liar=True,
    )


def _study(search: Search, number: int, again: int) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = sampler_of(search, number, again)
    return optuna.create_study(directions=[one.direction for one in search.objectives], sampler=sampler)


def _is_kept(key: str) -> bool:
    """Say whether what a sampler has noted of a trial is needed later: NSGA-II's generations are."""
    return key.endswith(":generation")
