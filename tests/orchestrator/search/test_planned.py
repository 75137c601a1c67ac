from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.changes import Changes, changed
from orchestrator.errors import UnknownName, UserError
from orchestrator.fingerprints import FilePlanner
from orchestrator.outlook import expected_line
from orchestrator.planning import Planning
from orchestrator.space import Asked, Choice, Float
from orchestrator.store import Store
from orchestrator.studies import load
from orchestrator.study import Comparison
from tests.orchestrator.search.searched import SPACE, Searched, search_study
from tests.orchestrator.synthetic import rank_study
from trainables.base import InputError

POINT = {"student.init": "random", "student.rank": 4, "student.learning_rate": 1e-3}


@pytest.fixture
def planning(tmp_path: Path) -> Planning:
    return Planning(search_study(points=5, seeds=(1, 2)), FilePlanner(Store(tmp_path)))


def test_before_a_point_is_asked_for_only_what_all_points_share_is_planned(planning):
    plan = planning(lambda run_id: None)
    assert {run.stage for run in plan.runs} == {"base_model", "dataset", "teacher", "evaluate"}
    assert {run.labels.get("evaluate.subject") for run in plan.of_stage("evaluate")} == {"base_model", "teacher"}
    assert sum(run.stage == "student" for run in plan.expected) == 5 * 2
    assert plan.points_left == 5
    said = expected_line(plan, [run.id for run in plan.runs])
    assert said.startswith("5 of 5 points are still to be asked for")


def test_a_point_is_ordinary_runs_with_the_ids_they_have_in_any_study(planning, tmp_path):
    plan = planning(lambda run_id: None, [Asked(0, POINT)])
    assert [plan[run].labels["student.seed"] for run in plan.points[0].runs] == [1, 2]
    assert plan[plan.points[0].runs[0]].name == "random r4 lr1e-3 s1"
    grid = rank_study(ranks=(4,), inits=("random",), seeds=2).with_setting("student", "learning_rate", 1e-3)
    known = Planning(grid, FilePlanner(Store(tmp_path)))(lambda run_id: None)
    assert set(plan.points[0].runs) == {run.id for run in known.of_stage("student")}
    assert plan.points_left == 4


def test_an_export_is_planned_only_where_a_point_reads_it(planning):
    assert not planning(lambda run_id: None, [Asked(0, POINT)]).of_stage("svd_export")
    both = [Asked(0, POINT), Asked(1, {**POINT, "student.init": "svd"})]
    assert len(planning(lambda run_id: None, both).of_stage("svd_export")) == 1


def test_where_a_condition_does_not_hold_the_stages_own_value_counts(tmp_path):
    dropout = Float(0.0, 0.2, when={"student.init": ("random",)})
    study = search_study(space={**SPACE, "student.lora_dropout": dropout})
    study = study.with_setting("student", "lora_dropout", 0.03)
    values = {**POINT, "student.init": "svd"}
    plan = Planning(study, FilePlanner(Store(tmp_path)))(lambda run_id: None, [Asked(0, values)])
    assert plan[plan.points[0].runs[0]].config.lora_dropout == 0.03
    values = {**POINT, "student.lora_dropout": 0.1}
    plan = Planning(study, FilePlanner(Store(tmp_path)))(lambda run_id: None, [Asked(0, values)])
    assert plan[plan.points[0].runs[0]].config.lora_dropout == 0.1


def test_a_study_searches_or_compares_and_names_what_is_there():
    with pytest.raises(InputError, match="compares and searches"):
        search_study().__class__(**{**vars(search_study()), "comparison": Comparison()})
    with pytest.raises(UnknownName, match="rnak"):
        Planning(search_study(space={"student.rnak": Choice(1, 2)}), FilePlanner(Store(Path("none"))))


def test_a_setting_given_by_hand_is_the_only_value_and_an_axis_is_narrowed(tmp_path):
    study = changed(search_study(), Changes(settings=("student.rank=8",), axes=("student.init=svd",), points=9))
    assert study.search is not None
    assert study.search.space["student.rank"] == Choice(8)
    assert study.search.space["student.init"] == Choice("svd")
    assert study.search.points == 9
    plan = Searched(study, tmp_path).run(rounds=3)
    assert {run.config.rank for run in plan.of_stage("student")} == {8}
    with pytest.raises(UserError, match="is searched among 2 to 16, log, and 32 is none of them"):
        changed(search_study(), Changes(axes=("student.rank=4,32",)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (Changes(prune="asha"), "favours the arm that starts lower"),
        (Changes(points=60), "is a comparison, not a search"),
    ],
)
def test_a_comparison_refuses_what_is_for_searches_and_says_why(changes, said):
    with pytest.raises(UserError, match=said):
        load("rank_study", Changes(scale="tiny", points=changes.points, prune=changes.prune))


def test_a_search_has_nothing_to_rehearse():
    with pytest.raises(UserError, match="nothing to rehearse"):
        load("lora_search", Changes(scale="null"))
