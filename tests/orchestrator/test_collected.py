"""Runs that are collected along an axis, planned; and a synthesised teacher swept from its members to its students."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.errors import UnknownName, UserError
from orchestrator.plan import Plan
from orchestrator.planning import expand
from orchestrator.study import Axis, By, Collected, Stage, Study
from tests.trainables.driver import FolderPlanner

READS = {"base_model": "base_model", "dataset": "dataset"}
PAIR = {"base_model": "base_model", "teacher": "teacher"}


def study(seeds: tuple[int, ...] = (1, 2, 3), over: str = "member.seed") -> Study:
    """Members that differ in their seeds, the teacher made of them, its export and students."""
    members = {"base_model": "base_model", "member": Collected("member", over=over)}
    stages = {
        "base_model": Stage("base_model", {"source": "tiny-llama"}),
        "dataset": Stage("dataset", {"source": "chain_sum"}, {"base_model": "base_model"}),
        "member": Stage("student", {"rank": 8}, READS),
        "teacher": Stage("lora_mean", {}, members),
        "svd_export": Stage("svd_export", {}, PAIR),
        "student": Stage("student", {"init": "svd"}, {**READS, "svd_export": "svd_export"}),
        "evaluate": Stage("evaluate", {}, {**READS, "subject": ("teacher", "member", "student")}),
    }
    return Study("made", "", stages, {"member.seed": seeds, "student.rank": (2, 4), "student.seed": (1, 2)})


def planned(made: Study) -> Plan:
    return expand(made, FolderPlanner(Path("nowhere")))


def test_one_run_reads_all_values_of_the_axis_in_their_order_and_nothing_after_it_follows_the_axis() -> None:
    plan = planned(study())
    counts = Counter(run.stage for run in plan.runs)
    assert (counts["member"], counts["teacher"], counts["svd_export"], counts["student"]) == (3, 1, 1, 4)
    assert counts["evaluate"] == 1 + 3 + 4
    (teacher,) = plan.of_stage("teacher")
    seeds = {role: plan[id_].labels["member.seed"] for role, id_ in teacher.inputs.items() if role != "base_model"}
    assert seeds == {"member_1": 1, "member_2": 2, "member_3": 3}
    assert all("member.seed" not in run.labels for stage in ("teacher", "student") for run in plan.of_stage(stage))
    order = [run.stage for run in plan.runs]
    assert order.index("teacher") > max(index for index, stage in enumerate(order) if stage == "member")


def test_one_member_more_makes_another_teacher_of_the_same_members_and_one() -> None:
    before, after = planned(study()), planned(study((1, 2, 3, 4)))
    members = [{run.id for run in plan.of_stage("member")} for plan in (before, after)]
    assert members[0] < members[1]
    assert before.of_stage("teacher")[0].id != after.of_stage("teacher")[0].id
    lost = {run.stage for run in before.runs if run.id in before.dependants(list(members[0])[:1])}
    assert lost == {"teacher", "svd_export", "student", "evaluate"}


def test_until_the_teacher_keeps_all_members() -> None:
    assert Counter(run.stage for run in planned(study()).until("teacher").runs)["member"] == 3


def test_a_collection_may_depend_on_an_axis_and_on_the_point() -> None:
    made = study()
    teacher = Stage(
        "lora_mean",
        {},
        {
            "base_model": "base_model",
            "member": By("arm", of_eight=Collected("member", "member.seed"), of_four=Collected("low", "member.seed")),
        },
    )
    low = Stage("student", {"rank": 4, "seed": Axis("member.seed")}, READS)
    plan = planned(made.with_stage("teacher", teacher).with_stage("low", low).with_axis("arm", ("of_eight", "of_four")))
    assert [run.labels for run in plan.of_stage("teacher")] == [{"arm": "of_eight"}, {"arm": "of_four"}]
    collected = [
        {plan[id_].stage for role, id_ in run.inputs.items() if role != "base_model"}
        for run in plan.of_stage("teacher")
    ]
    assert collected == [{"member"}, {"low"}]


def test_an_axis_or_stage_that_is_not_there_is_named() -> None:
    with pytest.raises(UnknownName, match=r"member collects runs over 'member.sed', which is no axis.*Did you mean"):
        planned(study(over="member.sed"))
    teacher = Stage("lora_mean", {}, {"base_model": "base_model", "member": Collected("membr", "member.seed")})
    with pytest.raises(UserError, match=r"teacher reads from 'membr', which is no stage\. Did you mean 'member'"):
        planned(study().with_stage("teacher", teacher))


SWEPT = """
'''Does a mean of LoRAs teach?'''
from dataclasses import replace
from orchestrator.study import By, Collected, Comparison, Stage, Study
from search_spaces.scales import SCALES

def build(scale):
    scale = SCALES["tiny"]
    small = {**scale.dataset, "items": 60, "validation": 5, "test": 5}
    scale = replace(scale, dataset=small, training={**scale.training, "batch_size": 4})
    stages, reads = scale.stages(), {"base_model": "base_model", "dataset": "dataset"}
    member = {**scale.training, "rank": 8, "steps": 4, "learning_rate": 1e-2}
    stages["member"] = Stage("student", member, reads)
    collected = {"base_model": "base_model", "member": Collected("member", over="member.seed")}
    stages["teacher"] = Stage("lora_mean", {}, collected)
    student = {**stages["student"].config, "steps": 4, "learning_rate": 1e-3}
    stages["student"] = replace(stages["student"], config=student)
    more = {"geometry": By("evaluate.subject", base_model=False, otherwise=True), "forgetting_window": 128}
    evaluate = stages["evaluate"]
    inputs = {**evaluate.inputs, "teacher": "teacher"}
    stages["evaluate"] = replace(evaluate, config={**evaluate.config, **more}, inputs=inputs)
    axes = {"member.seed": (1, 2), "student.rank": (2,), "student.init": ("random", "svd"), "student.seed": (1, 2)}
    return Study("made", "Made.", stages, axes, Comparison(), "tiny")
"""


def test_a_synthesised_teacher_is_swept_from_its_members_to_the_geometry_of_its_students(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made.py").write_text(SWEPT)
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "made.py", "--local"]) == 0
    with (tmp_path / "runs/reports/made/results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert Counter(row["stage"] for row in rows)["teacher"] == 1
    tested = {(row["subject"], row["init"], row["student.seed"]): row for row in rows if row["stage"] == "evaluate"}
    assert float(tested["teacher", "", ""]["distance_to_teacher"]) == 0
    assert tested["base_model", "", ""]["distance_to_teacher"] == ""
    for row in tested.values():
        assert float(row["forgetting_loss"]) > 0
    svd, random = (float(tested["student", init, "1"]["subspace_overlap"]) for init in ("svd", "random"))
    assert svd > random, "a start in the teacher's subspace is nearer to it after a few small steps"
