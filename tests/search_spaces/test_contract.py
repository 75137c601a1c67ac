"""What every file of `search_spaces` has to keep at every scale: a study is tested the moment it exists."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.changes import Changes
from orchestrator.fingerprints import FilePlanner
from orchestrator.plan import Plan
from orchestrator.planning import expand
from orchestrator.replication import design_of, is_for_verdict, splitting_axes
from orchestrator.report.lines import reference_stages
from orchestrator.store import Store
from orchestrator.studies import load, names, summary
from search_spaces.scales import SCALES
from trainables import inits

Planned = Callable[[str, str], Plan]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Return what plans a study at a scale, once for all tests, as in an empty store."""
    known: dict[tuple[str, str], Plan] = {}

    def plan(name: str, scale: str) -> Plan:
        if (name, scale) not in known:
            planner = FilePlanner(Store(tmp_path_factory.mktemp("none")))
            known[name, scale] = expand(load(name, Changes(scale=scale)), planner)
        return known[name, scale]

    return plan


COMPARING = [name for name in names() if name != "lora_search"]
"""Studies that compare; a search has a contract of its own."""
MEASURING = [name for name, scale in SCALES.items() if scale.rehearsal is None]
"""Scales at which a study asks its question; a rehearsal puts the baseline in the place of every arm."""
pytestmark = [pytest.mark.parametrize("name", COMPARING), pytest.mark.parametrize("scale", MEASURING)]


def test_it_builds_and_says_its_question_in_one_line(name: str, scale: str) -> None:
    study = load(name, Changes(scale=scale))
    assert study.name == name
    assert study.scale == scale
    assert summary(name) == study.description
    assert study.description.endswith(("?", "."))


def test_it_compares_every_arm_with_a_baseline_that_it_runs(name: str, scale: str, planned: Planned) -> None:
    plan = planned(name, scale)
    comparison = plan.study.comparison
    assert comparison is not None
    assert comparison.baseline in plan.study.axes[comparison.arm]
    design = design_of(plan.outlook)
    assert design is not None
    groups = {group for group, _ in design.replicates}
    assert design.family == len(groups) * (len(plan.study.axes[comparison.arm]) - 1)
    assert {arm for _, arm in design.replicates} == set(map(str, plan.study.axes[comparison.arm])) - {
        str(comparison.baseline)
    }
    assert all(None not in group for group in groups), "every compared run follows every axis that splits the family"
    assert splitting_axes(plan.study)


def test_all_its_comparisons_share_their_replicates(name: str, scale: str, planned: Planned) -> None:
    design = design_of(planned(name, scale).outlook)
    assert design is not None
    assert len(set(design.replicates.values())) == 1
    assert design.family == 1 or design.method == "westfall-young"


def test_every_arm_that_trains_selects_a_rate_of_its_own_among_as_many(name: str, scale: str, planned: Planned) -> None:
    plan = planned(name, scale)
    comparison = plan.study.comparison
    assert comparison is not None
    cells = {
        tuple(run.labels.get(axis) for axis in (comparison.arm, *splitting_axes(plan.study)))
        for run in plan.outlook.of_stage(plan.study.compared_stage)
        if is_for_verdict(run) and getattr(run.config, "steps", 1)
    }
    found = [item for item in plan.selections if item.setting == "learning_rate"]
    assert len(found) == len(cells)
    assert {len(item.tried) for item in found} == {3}


def test_no_two_arms_of_a_group_are_the_same_runs(name: str, scale: str, planned: Planned) -> None:
    plan = planned(name, scale)
    runs = [run for run in plan.outlook.of_stage(plan.study.compared_stage) if is_for_verdict(run)]
    assert len({(run.config, *sorted(run.inputs.items())) for run in runs}) == len(runs)
    expected = 1
    for axis, values in plan.study.axes.items():
        expected *= 1 if axis in plan.study.collected else len(values)
    assert len(runs) == expected


def test_every_student_and_every_reference_is_tested(name: str, scale: str, planned: Planned) -> None:
    plan = planned(name, scale).outlook
    tested = {run.inputs["subject"] for run in plan.of_stage("evaluate")}
    for stage in (*reference_stages(plan.study), "svd_export", plan.study.compared_stage):
        assert all(run.id in tested for run in plan.of_stage(stage) if is_for_verdict(run)), stage


def test_every_init_that_it_uses_is_given_what_it_reads(name: str, scale: str, planned: Planned) -> None:
    for run in planned(name, scale).outlook.of_stage("student"):
        assert set(inits.find(run.config.init).needs) <= set(run.inputs)  # type: ignore[attr-defined]
