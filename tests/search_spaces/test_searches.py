"""What a search among the files of `search_spaces` has to keep, at every scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.changes import Changes
from orchestrator.fingerprints import FilePlanner
from orchestrator.planning import Planning
from orchestrator.space import Asked, Choice
from orchestrator.store import Store
from orchestrator.studies import load, summary
from search_spaces.scales import SCALES

MEASURING = [name for name, scale in SCALES.items() if scale.rehearsal is None]
pytestmark = pytest.mark.parametrize("scale", MEASURING)


def test_it_searches_and_says_its_question_in_one_line(scale: str) -> None:
    study = load("lora_search", Changes(scale=scale))
    assert study.comparison is None
    assert study.search is not None
    assert summary("lora_search") == study.description
    assert study.search.usual is not None
    assert study.search.holds(study.search.usual)


def test_every_end_of_its_space_can_be_planned_and_the_usual_settings_are_those_of_the_trainable(
    scale: str, tmp_path: Path
) -> None:
    study = load("lora_search", Changes(scale=scale))
    search = study.search
    assert search is not None
    assert search.usual is not None
    ends = [search.point(lambda _axis, of, share=share: of.at(share)) for share in (0.0, 0.34, 0.67, 1.0)]
    asked = [Asked(number, values) for number, values in enumerate([search.usual, *ends])]
    plan = Planning(study, FilePlanner(Store(tmp_path)))(lambda run_id: None, asked)
    assert len({run for point in plan.points for run in point.runs}) == 5 * len(study.axes["student.seed"])
    usual = plan[plan.points[0].runs[0]].config
    assert usual.identity()["lora_alpha"] == usual.rank  # type: ignore[attr-defined]
    targets = search.space["targets"]
    assert isinstance(targets, Choice)
    assert {str(plan[point.runs[0]].config.target_modules) for point in plan.points} >= {"all-linear"}  # type: ignore[attr-defined]


def test_two_runs_of_a_point_are_called_by_their_settings_and_seed(scale: str, tmp_path: Path) -> None:
    study = load("lora_search", Changes(scale=scale))
    assert study.search is not None
    plan = Planning(study, FilePlanner(Store(tmp_path)))(lambda run_id: None, [Asked(0, study.search.middle())])
    names = [plan[run].name for run in plan.points[0].runs]
    assert [name.rpartition(" ")[2] for name in names] == ["s1", "s2"]
    assert all(word in names[0] for word in ("svd", "mlp", "a/r2", " lr", " drop0.1"))
