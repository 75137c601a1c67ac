from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchestrator import preregistration, report
from orchestrator.__main__ import main
from orchestrator.errors import StoreError, UserError
from orchestrator.report.comparison import summarise
from orchestrator.results import tidy
from orchestrator.store import Store
from orchestrator.study import Selected
from tests.orchestrator.synthetic import fill, planned, rank_study


def deviations(plan, store) -> list[str]:
    records = store.records(run.id for run in plan.runs)
    found = summarise(plan, tidy(plan, store), records, store)
    return next(section.paragraphs for section in found.sections if section.name == "deviations")


def test_a_lock_before_any_result_says_so_and_the_report_as_well(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=2), Store(tmp_path)
    plan = planned(study, store)
    locked = preregistration.lock(plan, store)
    assert (locked.n, locked.family, locked.primary_outcome, locked.finished) == (2, 1, "test_loss", 0)
    assert locked.when.endswith("before any result")
    fill(plan, store)
    assert preregistration.lock(plan, store) == locked, "the same design again is left as it was locked first"
    assert deviations(plan, store) == [f"As {locked.when}."]


def test_a_lock_after_results_says_after_how_many(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=2), Store(tmp_path)
    plan = planned(study, store)
    fill(plan, store, leave_out=["random r4 s2"])
    locked = preregistration.lock(plan, store)
    ended = [run for stage in ("student", "evaluate") for run in plan.of_stage(stage) if store.record(run.id)]
    assert 0 < locked.finished == len(ended) < locked.runs
    assert f"after {locked.finished} of {locked.runs} runs had ended" in locked.when


def test_another_design_does_not_overwrite_a_lock_and_every_deviation_is_listed(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=2), Store(tmp_path)
    before = preregistration.lock(planned(study, store), store)
    assert study.comparison is not None
    changed = rank_study(ranks=(4,), seeds=3, steps=10)
    changed = replace(changed, comparison=replace(study.comparison, metric="final_eval_loss", margin=0.1))
    plan = planned(changed, store)
    with pytest.raises(UserError, match="n: locked 2, now 3") as mistake:
        preregistration.lock(plan, store)
    assert "\n" not in str(mistake.value)
    assert preregistration.read(store, "rank_study") == before
    fill(plan, store)
    told = deviations(plan, store)
    assert told[0].startswith(f"The design was {before.when}; 5 deviations")
    for text in (
        "Primary outcome: locked test_loss, now final_eval_loss.",
        "N: locked 2, now 3.",
        "Margin: locked none, now 0.1.",
        "Student.seed: locked 1, 2, now 1, 2, 3.",
        "Steps: locked 20, now 10.",
    ):
        assert text in told


def test_a_report_is_written_again_when_a_design_is_locked(tmp_path):
    study, store = rank_study(ranks=(4,), seeds=2), Store(tmp_path)
    plan = planned(study, store)
    fill(plan, store)
    folder = report.report_folder(plan, store)
    report.write(plan, store, folder)
    assert report.is_current(plan, store, folder)
    preregistration.lock(plan, store)
    assert not report.is_current(plan, store, folder)


def test_a_damaged_lock_is_named(tmp_path):
    store = Store(tmp_path)
    path = preregistration.path_of(store, "rank_study")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(StoreError, match="it is no locked design"):
        preregistration.read(store, "rank_study")


def test_plan_lock_writes_the_design_and_a_plan_alone_writes_nothing(tmp_path, capsys):
    command = ["plan", "rank_study", "--scale", "tiny", "--store", str(tmp_path / "s")]
    assert main(command) == 0
    assert not (tmp_path / "s").exists()
    capsys.readouterr()
    assert main([*command, "--lock", "--json"]) == 0
    assert "before any result" in json.loads(capsys.readouterr().out)["locked"]
    locked = json.loads((tmp_path / "s/reports/rank_study/design.json").read_text())
    assert locked["settings"]["steps"] == [20]
    assert locked["looks"] == []
    assert main([*command, "--axis", "student.seed=1,2,3,4,5,6", "--lock"]) == 2
    assert "locked 3, now 6" in capsys.readouterr().err


def test_how_settings_are_selected_is_locked_and_other_tuning_seeds_are_a_deviation(tmp_path):
    store, rule = Store(tmp_path), Selected((1e-3, 3.2e-3, 1e-2), seeds=(101, 102, 103, 104), start=2)
    study = rank_study(ranks=(4,), seeds=2).with_setting("student", "learning_rate", rule)
    locked = preregistration.lock(planned(study, store), store)
    assert locked.selection == {
        "tuning seeds of student.learning_rate": [101, 102, 103, 104, "2 start, by final_eval_loss, 3 widenings"]
    }
    more = planned(study.with_setting("student", "learning_rate", rule.with_seeds(5)), store)
    with pytest.raises(UserError, match=r"tuning seeds of student.learning_rate: locked 101, 102, 103, 104, 2 start"):
        preregistration.lock(more, store)


def test_a_plan_says_whether_its_design_is_as_locked(tmp_path, capsys):
    command = ["plan", "rank_study", "--scale", "tiny", "--store", str(tmp_path / "s")]
    assert main(command) == 0
    assert " lock " not in capsys.readouterr().out
    assert main([*command, "--lock"]) == 0
    assert "ok     lock           locked on" in capsys.readouterr().out
    assert main(command) == 0
    assert "ok     lock           as locked on" in capsys.readouterr().out
    assert main([*command, "--set", "student.steps=10"]) == 0
    assert "note   lock           differs in steps: locked 20, now 10 (locked on" in capsys.readouterr().out
    assert main([*command, "--set", "student.steps=10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["is_as_locked"] is False
    assert main([*command, "--until", "teacher"]) == 0
    assert " lock " not in capsys.readouterr().out


def test_a_lock_after_results_is_a_note(tmp_path, capsys):
    command = ["plan", "rank_study", "--scale", "tiny", "--store", str(tmp_path / "s")]
    assert main([*command, "--lock"]) == 0
    path = tmp_path / "s/reports/rank_study/design.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "finished": 3}))
    capsys.readouterr()
    for way, said in (([], "as locked on"), (["--lock"], "locked on")):
        assert main([*command, *way]) == 0
        assert f"note   lock           {said}" in capsys.readouterr().out
