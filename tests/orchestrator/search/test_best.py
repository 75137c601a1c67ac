"""The best point of a search as a study: what it plans, and by what it is judged."""

from __future__ import annotations

import pytest

from orchestrator.fingerprints import FilePlanner
from orchestrator.planning import expand
from orchestrator.search.best import file_of
from orchestrator.search.points import Point
from orchestrator.space import Asked
from orchestrator.store import Store
from orchestrator.studies import load

SEARCH = '''"""A search of which one axis is there for random starts alone."""

from orchestrator.space import Choice, Float, Objective, Search
from orchestrator.study import Study, repeats

SPACE = {{
    "student.init": Choice("random", "svd"),
    "student.rank": Choice(4, 8),
    "student.learning_rate": Float(1e-4, 1e-1, log=True),
    "student.lora_dropout": Float(0.0, 0.2, when={{"student.init": ("random",)}}),
}}
USUAL = {{"student.init": "random", "student.rank": 4, "student.learning_rate": 1e-3, "student.lora_dropout": 0.1}}


def build(scale):
    stages = scale.stages()
    stages["evaluate"] = stages["evaluate"].but(inputs={{"subject": ("base_model", "teacher", "student")}})
    search = Search(space=SPACE, objectives=({objective},), points=4, usual=USUAL)
    about = {{"axes": {{"student.seed": repeats(2)}}, "search": search, "shape": scale.shape}}
    return Study(name="conditional", description="x", stages=stages, **about)
'''


@pytest.fixture
def confirmed(tmp_path):
    """Return a function from an objective to the study of the best point, an SVD start, as its file says it."""

    def make(objective: str):
        path = tmp_path / "conditional.py"
        path.write_text(SEARCH.format(objective=objective))
        search = load(str(path))
        assert search.search is not None
        usual = Point(Asked(0, dict(search.search.usual)), "done", (0.1,))
        values = {"student.init": "svd", "student.rank": 8, "student.learning_rate": 0.02}
        best = Point(Asked(1, values), "done", (0.9,))
        file = tmp_path / "best.py"
        file.write_text(file_of(search, best, usual, count=2))
        return load(str(file))

    return make


def test_an_axis_that_the_best_point_has_not_is_at_the_default_there(confirmed, tmp_path):
    plan = expand(confirmed("Objective()"), FilePlanner(Store(tmp_path / "runs"), tmp_path))
    dropout = {run.config.init: run.config.lora_dropout for run in plan.of_stage("student")}
    assert dropout == {"random": 0.1, "svd": 0.0}


def test_it_is_judged_by_the_searchs_own_test_metric(confirmed):
    comparison = confirmed('Objective("test_accuracy", higher_is_better=True)').comparison
    assert (comparison.metric, comparison.higher_is_better, comparison.margin) == ("test_accuracy", True, None)


def test_a_search_by_validation_loss_is_confirmed_on_test_loss(confirmed):
    comparison = confirmed("Objective()").comparison
    assert (comparison.metric, comparison.higher_is_better) == ("test_loss", False)
    assert comparison.margin is not None
