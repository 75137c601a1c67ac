"""What a report says of the choices that tuning runs made."""

from __future__ import annotations

import math

import pytest

from orchestrator.advice import advise
from orchestrator.plan import Plan
from orchestrator.report.choices import choices_of, section
from orchestrator.report.comparison import summarise
from orchestrator.report.document import compose
from orchestrator.report.family import Family
from orchestrator.report.material import Material
from orchestrator.report.summary import Difference
from orchestrator.store import Store
from orchestrator.study import By, Selected
from tests.orchestrator.report.made_up import students, study_of
from tests.orchestrator.told import RATES, Known, study, valley

SWEEP = "python -m orchestrator sweep rank_study --scale tiny --tuning-seeds 4"


def difference(rank: int) -> Difference:
    none = dict.fromkeys(("estimate", "p", "p_adjusted", "adjusted_by", "p_equivalent", "d_z"))
    about = {"planned": 3, "pairs": [], "replicates": [], "interval_method": "", "is_exact": True}
    said = {"verdict": "interim", "sentence": ""}
    return Difference(arm="svd", baseline="random", group={"rank": rank}, **about, **none, **said)


def settled(tmp_path, *seeds: int) -> Plan:
    """Random at rank 4 cannot tell 1e-2 from 3.2e-2; all other choices are clear."""

    def loss(run):
        best = 1.8e-2 if (run.config.init, run.config.rank) == ("random", 4) else 1e-2
        noise = 0.03 * math.sin(1e5 * run.config.seed * run.config.learning_rate)
        return valley(random=best, svd=1e-4)(run) + noise

    return Known(tmp_path, study(Selected(RATES, seeds=seeds))).settle(loss)


def test_a_comparison_whose_choice_is_within_noise_is_named_with_the_command_for_more_seeds(tmp_path):
    plan = settled(tmp_path, 101, 102, 103, 104)
    found = section(plan, [difference(2), difference(4)], SWEEP)
    about, unsure = found.paragraphs
    assert "3 of 4 choices are clear" in about
    assert "the luck of the choice is in no interval" in about
    assert "svd − random at rank 4" in unsure
    assert "rank 2" not in unsure
    assert "`python -m orchestrator sweep rank_study --scale tiny --tuning-seeds 8`" in unsure
    (choice,) = (item for item in plan.selections if item.where == "rank 4, init random")
    assert f"may be better by at most {choice.regret:.2g} (rank 4, init random) in validation loss" in unsure
    (grid,) = found.grids
    assert [row[-2] == "0" for row in grid.rows] == [row[-1] == "clear" for row in grid.rows]
    words = {tuple(row[:2]): row[-1] for row in grid.rows}
    assert words == {
        ("2", "random"): "clear",
        ("2", "svd"): "clear",
        ("4", "random"): "within noise",
        ("4", "svd"): "clear",
    }


def test_of_one_tuning_seed_it_says_that_nothing_can_be_said(tmp_path):
    found = section(settled(tmp_path, 101), [difference(2), difference(4)], SWEEP)
    assert "of 4 nothing can be said, for one tuning seed shows no noise" in found.paragraphs[0]
    assert {row[-1] for row in found.grids[0].rows} == {"one seed: not known"}
    assert "These 2 comparisons rest on a choice within noise" in found.paragraphs[1]


def test_choices_of_a_comparison_are_those_of_its_arms_at_its_rank_and_pooled_ones_are_of_both(tmp_path):
    ours, theirs = choices_of(settled(tmp_path, 101, 102), difference(4))
    assert [item.where for item in (*ours, *theirs)] == ["rank 4, init svd", "rank 4, init random"]
    pooled = Selected((1e-3, 1e-2, 1e-1), per=("student.rank",))
    plan = Known(tmp_path / "pooled", study(pooled)).settle(valley(random=1e-2, svd=1e-2))
    ours, theirs = choices_of(plan, difference(4))
    assert ours == theirs
    assert len(ours) == 1


def test_there_is_nothing_to_say_where_nothing_is_selected_yet(tmp_path):
    assert section(Known(tmp_path, study()).plan(), [difference(2)], SWEEP) is None


@pytest.mark.parametrize(("seeds", "is_enough"), [(7, True), (2, False)])
def test_fewer_tuning_seeds_than_replicates_are_noted_with_the_way_out(tmp_path, seeds, is_enough):
    rule = Selected(RATES, seeds=tuple(range(101, 101 + seeds)))
    plan = Known(tmp_path, study(rule).with_axis("student.seed", tuple(range(1, 8)))).plan()
    found = [item for item in advise(plan) if item.topic == "tuning seeds"]
    assert [item.is_ok for item in found] == ([] if is_enough else [False])
    assert all(item.text.endswith("--tuning-seeds 7") for item in found)


def test_verdicts_and_their_scope_name_what_was_selected_and_only_that(tmp_path):
    table = students((4,), lambda _: range(1, 8), lambda _, init, seed: (init == "random") + seed / 100)
    plain = study_of(table)
    selected = plain.with_setting("student", "learning_rate", By("student.init", svd=Selected(RATES), random=1e-3))
    assert selected.with_axis("student.learning_rate", (1e-3,)).at_selected == "", "given by hand"
    said = [summarise(Plan(of, ()), table, {}, Store(tmp_path)) for of in (plain, selected)]
    where = "for this teacher and split"
    assert [summary.scope for summary in said] == [where, f"{where}, at the selected learning rates"]
    assert all(f"{summary.scope}: svd" in summary.differences[0].sentence for summary in said)


def test_the_section_stands_with_its_figure_and_once(tmp_path):
    plan = settled(tmp_path, 101, 102)
    table = students((2, 4), lambda _: (1, 2, 3), lambda _, init, seed: (init == "random") + seed / 100)
    summary = summarise(plan, table, {}, Store(tmp_path)).model_copy(update={"figures": {"selection": "Rates."}})
    material = Material(plan, Store(tmp_path), {}, Family(plan.study, table), summary)
    found = compose(material, {"how_tested": "", "provenance": [], "counts": ""}).sections
    (chosen,) = (one for one in found if one.name == "selection")
    assert chosen.figures == ["selection"]
    assert "Tuning runs chose `student.learning_rate`" in chosen.paragraphs[0]
