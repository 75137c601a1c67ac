from collections import Counter
from pathlib import Path

import pytest

from orchestrator.changes import Changes
from orchestrator.errors import UnknownName, UserError
from orchestrator.fingerprints import FilePlanner
from orchestrator.planning import expand
from orchestrator.store import Store
from orchestrator.studies import load
from orchestrator.study import Axis, By, Computed, Stage, Study
from search_spaces.scales import export_rank


@pytest.fixture
def plan_of(tmp_path):
    def make(*, study="rank_study", settings=(), **changes):
        settings = ("student.learning_rate=1e-3", *settings)
        changes = Changes(**{"scale": "tiny", "settings": settings, **changes})
        built = study if isinstance(study, Study) else load(study, changes)
        return expand(built, FilePlanner(Store(tmp_path / "runs"), tmp_path))

    return make


def test_students_share_one_teacher_and_one_export(plan_of):
    plan = plan_of()
    stages = Counter(run.stage for run in plan.runs)
    students = 3 * 2 * 3
    assert stages == {
        "base_model": 1,
        "dataset": 1,
        "teacher": 1,
        "svd_export": 1,
        "student": students,
        "evaluate": students + 2 + 3,  # base, teacher and the truncated teacher at each of three ranks
    }
    export = plan.of_stage("svd_export")[0].id
    readers = [run for run in plan.of_stage("student") if export in run.inputs.values()]
    assert {run.labels["student.init"] for run in readers} == {"svd"}


def test_every_run_comes_after_what_it_needs(plan_of):
    seen = set()
    for run in plan_of().runs:
        assert set(run.inputs.values()) <= seen
        seen.add(run.id)


def test_a_new_smaller_rank_reuses_the_export_and_a_larger_one_adds_one(plan_of):
    before = {run.id for run in plan_of(axes=("student.rank=4,16,64",)).runs}
    smaller = [run for run in plan_of(axes=("student.rank=4,16,32,64",)).runs if run.id not in before]
    assert {(run.stage, run.labels["student.rank"]) for run in smaller} == {("student", 32), ("evaluate", 32)}
    larger = [run for run in plan_of(axes=("student.rank=4,16,64,128",)).runs if run.id not in before]
    assert Counter(run.stage for run in larger)["svd_export"] == 1
    assert {run.labels["student.rank"] for run in larger} == {128}


@pytest.mark.parametrize(("rank", "exported"), [(1, 64), (64, 64), (65, 128), (128, 128), (200, 256)])
def test_the_export_rank_is_the_next_power_of_two_and_at_least_64(rank, exported):
    assert export_rank(rank) == exported


def test_where_a_run_executes_never_changes_its_id(plan_of):
    places = (
        "teacher.workers=2",
        "student.per_device_batch_size=2",
        "student.checkpoint_every=3",
        "student.gradient_checkpointing=true",
        "teacher.log_every=5",
    )
    moved = plan_of(places=places)
    assert [run.id for run in moved.runs] == [run.id for run in plan_of().runs]
    assert moved.of_stage("teacher")[0].place.workers == 2


def test_a_setting_changes_the_ids_of_its_stage_and_of_what_depends_on_it_only(plan_of):
    before = {run.id for run in plan_of().runs}
    changed = [run for run in plan_of(settings=("teacher.steps=41",)).runs if run.id not in before]
    kept = {(run.stage, run.labels.get("student.init")) for run in plan_of().runs} - {
        (run.stage, run.labels.get("student.init")) for run in changed
    }
    assert ("base_model", None) in kept
    assert ("student", "random") in kept
    assert ("student", "svd") not in kept


def test_names_are_readable_and_unique_within_a_plan(plan_of):
    names = [run.name for run in plan_of().runs]
    assert len(set(names)) == len(names)
    assert {"svd r4 s2", "teacher", "evaluate teacher", "evaluate svd_export r4", "evaluate student random r2 s1"} <= {
        *names
    }


def test_values_may_depend_on_axes_of_any_kind(plan_of):
    study = load("rank_study", Changes(scale="tiny", settings=("student.learning_rate=1e-3",)))
    student = study.stages["student"]
    alpha = By("student.rank", {2: 4, 4: 8, 8: Computed(double, "student.rank")})
    changed = Stage(student.trainable, {**student.config, "lora_alpha": alpha}, student.inputs)
    plan = plan_of(study=study.with_stage("student", changed))
    assert {(run.config.rank, run.config.lora_alpha) for run in plan.of_stage("student")} == {(2, 4), (4, 8), (8, 16)}


def double(rank):
    return 2 * rank


def test_a_value_that_a_table_does_not_give_is_refused_with_the_way_out(plan_of):
    study = load("rank_study", Changes(scale="tiny", axes=("student.init=random,svd",)))
    study = study.with_setting("student", "learning_rate", By("student.init", random=1e-3))
    with pytest.raises(
        UserError, match=r"not given for student.init=svd .*only for random.*--set student.learning_rate"
    ):
        plan_of(study=study)


def test_an_axis_that_the_study_has_not_is_named(plan_of):
    study = load("rank_study", Changes(scale="tiny")).with_setting("evaluate", "items", Axis("student.rnak"))
    with pytest.raises(UnknownName, match=r"student.rnak.*Did you mean 'student.rank'"):
        plan_of(study=study)


def test_stages_that_need_each_other_are_refused():
    stages = {
        "teacher": Stage("teacher", {}, {"base_model": "export"}),
        "export": Stage("svd_export", {}, {"teacher": "teacher"}),
    }
    with pytest.raises(UserError, match="circle"):
        expand(Study("loop", "", stages), FilePlanner(Store(Path("runs"))))


def test_until_keeps_a_stage_and_what_it_needs(plan_of):
    assert [run.stage for run in plan_of().until("dataset").runs] == ["base_model", "dataset"]
    assert {run.stage for run in plan_of().until("svd_export").runs} == {
        "base_model",
        "dataset",
        "teacher",
        "svd_export",
    }
    with pytest.raises(UnknownName, match="Did you mean 'teacher'"):
        plan_of().until("techer")


def test_dependants_of_the_export_are_the_svd_students_and_their_evaluations(plan_of):
    plan = plan_of()
    lost = [plan[run_id] for run_id in plan.dependants([plan.of_stage("svd_export")[0].id])]
    assert {run.labels.get("student.init", "svd") for run in lost} == {"svd"}
    assert {run.stage for run in lost} == {"student", "evaluate"}
