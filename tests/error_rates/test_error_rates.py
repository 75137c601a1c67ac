"""What the simulation of docs/error_rates.md has to show, and that its path is the report's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchestrator.report.differences import judge
from orchestrator.report.family import Family
from orchestrator.study import Comparison, Study
from tests.error_rates.measure import COVERED, MEETING, OTHERS, POWERED, coverage, errors, nominal, power, reckoned
from tests.error_rates.path import verdicts
from tests.error_rates.worlds import World, draw, normal

DOCUMENT = Path(__file__).parents[2] / "docs" / "error_rates.md"
AXES = {"student.rank": (1, 2, 3), "student.init": ("random", "svd")}


@pytest.mark.slow
def test_the_family_wise_error_of_claims_is_at_most_alpha_where_the_assumptions_hold():
    measured = {world.name: errors(world) for world in MEETING}
    assert {name: rate for name, rate in measured.items() if rate.lower_99 > 0.05} == {}


@pytest.mark.slow
def test_the_simulation_sees_errors_where_there_are_some():
    measured = {world.name: errors(world, 500) for world in OTHERS}
    assert measured["1 teacher, sd 1, n 8; held against all teachers"].lower_99 > 0.3
    assert measured["seven looks at .05 each"].lower_99 > 0.05
    assert measured["skewed: lognormal against a constant, n 12"].lower_99 > 0.05
    by_seeds = [
        measured[f"rates matter, {n}; held against the best rates"] for n in ("1 tuning seed", "3 tuning seeds")
    ]
    assert by_seeds[0].share > by_seeds[1].share > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("world", [world for world in COVERED if world.meets], ids=lambda world: world.name)
def test_inverted_intervals_cover_as_often_as_they_say(world):
    found, bias = coverage(world)
    assert found.share == pytest.approx(nominal(world), abs=0.015), "3.4 standard errors at 2500 studies"
    assert abs(bias) < 0.05


@pytest.mark.slow
def test_power_rises_with_n_and_effect_and_is_not_below_what_is_reckoned():
    measured = {(world.name, world.n, -world.effect[0]): power(world).share for world in POWERED}
    assert measured["Holm, 5 comparisons", 6, 2.0] == 0, "no data could"
    assert measured["Westfall-Young, 5 ranks", 6, 2.0] > 0.5
    by_effect = [measured["Westfall-Young, 3 ranks", 7, size] for size in (0.5, 1.0, 1.5, 2.0)]
    assert by_effect == sorted(by_effect)
    assert measured["Westfall-Young, 3 ranks", 12, 1.0] > measured["Westfall-Young, 3 ranks", 7, 1.0]
    formula = {(world.name, world.n, -world.effect[0]): reckoned(world) for world in POWERED}
    assert all(measured[key] >= value - 0.04 for key, value in formula.items() if value is not None)


def test_the_document_names_every_world_that_is_simulated():
    text = DOCUMENT.read_text()
    assert [world.name for world in (*MEETING, *OTHERS, *COVERED, *POWERED) if f"| {world.name} |" not in text] == []


def _family(world: World, seed: int) -> tuple[Family, list[str]]:
    """Return one simulated study as the table of a report, and its verdicts by the simulated path."""
    drawn = draw(world, np.random.default_rng(seed))
    rows = [
        {
            "run_id": f"{init}{rank}{student}",
            "stage": "student",
            "status": "done",
            "rank": rank + 1,
            "init": init,
            "seed": student + 1,
            "test_loss": losses[0, student, rank],
        }
        for init, losses in (("svd", drawn.arm), ("random", drawn.baseline))
        for student in range(world.n)
        for rank in range(3)
    ]
    axes = {**AXES, "student.seed": tuple(range(1, world.n + 1))}
    margin = None if world.margin is None else world.margin * world.sd
    study = Study("made_up", "Made up.", {}, axes, Comparison(margin=margin, looks=world.sizes))
    return Family(study, pd.DataFrame(rows)), [str(word) for word in verdicts(world, drawn)]


@pytest.mark.parametrize(
    "world",
    [
        World("plain", normal, n=7, effect=(-2.0, 0.0, 1.0)),
        World("margin", normal, n=9, effect=(0.0, 0.1, 1.5), margin=1.0),
        World("look", normal, n=8, effect=(-1.0, 0.0, 1.5), sizes=(8,)),
    ],
    ids=lambda world: world.name,
)
def test_the_simulated_path_gives_the_verdicts_of_the_report(world):
    seen = set()
    for seed in range(12):
        family, simulated = _family(world, seed)
        assert [item.verdict for item in judge(family, "here").differences] == simulated
        seen |= {*simulated}
    assert len(seen) > 1, "one word for everything would agree by itself"


def test_a_rate_is_chosen_by_noisy_losses_and_better_by_more_seeds():
    rng = np.random.default_rng(5)

    def cost(tuning: int) -> float:
        world = World("", normal, tuning=tuning, curve=1.0, is_meant="these", ranks=1)
        return float(np.mean([abs(draw(world, rng).truth[0]) for _ in range(60)]))

    assert cost(1) > cost(20)
