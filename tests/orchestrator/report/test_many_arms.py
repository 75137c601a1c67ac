"""A study whose arms are values of a free axis: ten of them, one trained for longer, with further references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from orchestrator import report
from orchestrator.advice import advise
from orchestrator.plan import Plan
from orchestrator.report import panels
from orchestrator.report.lines import reference_stages
from orchestrator.report.quotes import with_restricted_steps
from orchestrator.report.summary import Summary
from orchestrator.store import Store
from orchestrator.study import By, Comparison, Stage, Study
from tests.orchestrator.synthetic import FAKES, READS, filled, rank_study

Made = tuple[Plan, Store, Path, Summary]
ARMS = {"random": "random", "long": "random", "wrong": "svd", **{f"svd_{index}": "svd" for index in range(7)}}


def study() -> Study:
    usual = rank_study(ranks=(4,), seeds=6)
    subjects = ("base_model", "teacher", "svd_export", "student", "teacher_continued", "wrong_teacher")
    settings = {
        "init": By("arm", ARMS),
        "steps": By("arm", long=60, otherwise=20),
        "effect": By("arm", {f"svd_{index}": 0.1 + 0.02 * index for index in range(7)}, otherwise=0.0),
        "fate": "done",
        "learning_rate": 1e-3,
    }
    stages = {
        **usual.stages,
        "teacher_continued": Stage(f"{FAKES}.teacher", {"ends_at": 0.9}, {**READS, "base_model": "teacher"}),
        "wrong_teacher": Stage(f"{FAKES}.teacher", {"ends_at": 2.5, "steps": 30}, READS),
        "wrong_export": Stage(
            f"{FAKES}.svd_export", {"rank": 64}, {"base_model": "base_model", "teacher": "wrong_teacher"}
        ),
        "student": usual.stages["student"].but(
            settings, {"svd_export": By("arm", wrong="wrong_export", otherwise="svd_export")}
        ),
        "evaluate": usual.stages["evaluate"].but(inputs={"subject": subjects}),
    }
    axes = {"student.rank": (4,), "arm": tuple(ARMS), "student.seed": usual.axes["student.seed"]}
    return replace(usual, stages=stages, axes=axes, comparison=Comparison(arm="arm", target_margin=0.05))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    _, plan, store = filled(tmp_path_factory.mktemp("arms"), study())
    for stage, seconds in {"teacher": 7.0, "wrong_teacher": 9.0, "svd_export": 1.0, "wrong_export": 1.0}.items():
        (run,) = plan.of_stage(stage)
        record = store.record(run.id)
        assert record is not None
        taken = record.model_copy(update={"provenance": record.provenance.model_copy(update={"seconds": seconds})})
        (store.artefact(run.id) / "record.json").write_text(taken.model_dump_json())
    folder = store.root / "report"
    return plan, store, folder, report.write(plan, store, folder, command="python -m orchestrator sweep mine")


def test_what_is_tested_and_no_arm_is_a_reference_with_the_gap_it_closes(
    made: Made,
) -> None:
    *_, summary = made
    assert reference_stages(study()) == ["base_model", "teacher", "teacher_continued", "wrong_teacher"]
    found = {line.label: line for line in summary.lines if not line.group}
    assert [line.kind for line in found.values()] == ["base", "teacher", "reference", "reference"]
    base, teacher, wrong = (
        found[name].numbers["test_loss"].mean for name in ("base model", "teacher", "wrong teacher")
    )
    assert found["wrong teacher"].numbers["gap_closed"].mean == pytest.approx((base - wrong) / (base - teacher))
    assert "gap_closed" not in found["teacher"].numbers


def test_tables_call_the_arms_by_their_axis(made: Made) -> None:
    _, _, folder, summary = made
    assert summary.arm_name == "arm"
    assert "| rank | arm | n |" in (folder / "report.md").read_text()


def test_an_arm_pays_for_the_teacher_that_its_own_students_read(made: Made) -> None:
    *_, summary = made
    costs = next(item for item in summary.sections if item.name == "costs")
    once = {row[1]: row[2:5] for row in costs.grids[1].rows}
    assert once["wrong"] != once["svd_0"]
    assert once["svd_0"][1:] == once["svd_1"][1:] == ["8", "8"]
    assert "random" not in once


def test_ten_arms_of_one_rank_have_a_panel_each_with_the_baseline_in_it() -> None:
    numbers = pd.DataFrame([{"panel": "rank 4", "arm": arm, "step": step} for arm in ARMS for step in (0, 1)])
    found = panels.panels(numbers, list(ARMS))
    assert found.is_by_arm
    assert list(found.shown) == [arm for arm in ARMS if arm != "random"]
    assert all(set(rows["arm"]) == {"random", arm} for arm, rows in found.shown.items())
    few = panels.panels(numbers[numbers["arm"].isin(["random", "svd_0"])], list(ARMS))
    assert (list(few.shown), few.is_by_arm) == (["rank 4"], False)


def test_the_outcome_of_one_rank_is_drawn_arm_below_arm(made: Made) -> None:
    _, _, folder, summary = made
    assert {"outcomes", "loss_curves", "differences"} <= set(summary.figures)
    assert "outcome_by_rank" not in summary.figures
    assert list(pd.read_csv(folder / "figures/outcomes.csv")["line"])[4:] == ["svd, untrained", *ARMS]
    assert len(pd.read_csv(folder / "figures/loss_curves.csv")["arm"].unique()) == len(ARMS)


def test_steps_are_compared_over_the_horizon_that_both_arms_were_watched_for() -> None:
    rows = pd.DataFrame({"steps_to_target": [40.0, 10.0, None], "steps_censored_at": [None, None, 20.0]})
    rows["steps"] = [60, 20, 20]
    assert list(with_restricted_steps(rows)["_steps"]) == [20, 10, 20]


def test_what_sets_arms_of_a_free_axis_apart_is_told_once_and_no_fault(made: Made) -> None:
    plan, _, _, summary = made
    (found,) = (item for item in advise(plan) if item.topic == "pairing")
    assert found.is_ok
    assert found.text == "the arms differ in steps long 60, the others 20: as the study says of its arms"
    assert "steps by arm: long 60; the others 20" in summary.notes
