"""A learning rate selected by real training on the tiny model, by the sweep command."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.store import Store

STUDY = """
'''At which rate does a random adapter learn?'''
from dataclasses import replace
from orchestrator.study import Comparison, Selected, Study, around
from search_spaces.scales import SCALES

def build(scale):
    scale = SCALES["tiny"]
    small = {**scale.dataset, "items": 60, "validation": 5, "test": 5}
    stages = replace(scale, dataset=small, training={**scale.training, "batch_size": 4}).stages()
    stages = {name: stages[name] for name in ("base_model", "dataset", "student", "evaluate")}
    reads = {"base_model": "base_model", "dataset": "dataset"}
    evaluate = {"config": {"precision": "fp32"}, "inputs": {**reads, "subject": "student"}}
    stages["evaluate"] = replace(stages["evaluate"], **evaluate)
    rates = Selected(around(RATE), seeds=(101,), widenings=2)
    student = {**stages["student"].config, "steps": 4, "learning_rate": rates}
    stages["student"] = replace(stages["student"], config=student, inputs=reads)
    return Study("rates", "Rates.", stages, {"student.rank": (2, 4), "student.init": ("random",),
        "student.seed": (1, 2)}, Comparison(), "tiny")
"""
SWEEP = ["sweep", "rates.py", "--local"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study and the store that one sweep of it has left."""
    folder = tmp_path_factory.mktemp("selection")
    (folder / "rates.py").write_text(STUDY.replace("RATE", "1e-5"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(SWEEP) == 0
    return folder


@pytest.fixture
def folder(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(swept, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("COLUMNS", "160")  # tables wrap their cells to the terminal's width
    return tmp_path / "copy"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "runs/reports/rates/results.csv").open() as stream:
        volatile = ("started", "seconds", "core_seconds", "peak_memory_gib", "host")
        return [{k: v for k, v in row.items() if k not in volatile} for row in csv.DictReader(stream)]


def test_one_sweep_tunes_widens_and_judges_with_the_rate_it_chose(swept: Path) -> None:
    found = Counter((row["stage"], row["purpose"]) for row in rows(swept))
    assert found == {
        ("base_model", "verdict"): 1,
        ("dataset", "verdict"): 1,
        ("student", "tuning"): 2 * (3 + 2),  # a rate of 1e-5 is far too low: the grid grows twice
        ("student", "verdict"): 2 * 2,
        ("evaluate", "verdict"): 2 * 2,
    }
    students = [row for row in rows(swept) if row["stage"] == "student"]
    for rank in ("2", "4"):
        tuned = {
            float(row["learning_rate"]): float(row["final_eval_loss"])
            for row in students
            if row["rank"] == rank and row["purpose"] == "tuning"
        }
        assert sorted(tuned) == [3.2e-6, 1e-5, 3.2e-5, 1e-4, 3.2e-4]
        best = min(tuned, key=lambda rate: tuned[rate])
        judged = [row for row in students if row["rank"] == rank and row["purpose"] == "verdict"]
        assert {float(row["learning_rate"]) for row in judged} == {best}
        assert {row["seed"] for row in judged} == {"1", "2"}


def test_the_figure_of_the_selection_has_its_numbers_beside_it(swept: Path) -> None:
    figures = swept / "runs/reports/rates/figures"
    assert (figures / "selection.png").stat().st_size > 10_000
    with (figures / "selection.csv").open() as stream:
        points = list(csv.DictReader(stream))
    assert Counter((point["panel"], point["state"]) for point in points) == {
        ("rank 2", "on the edge"): 5,
        ("rank 4", "on the edge"): 5,
    }
    assert [point["is_chosen"] for point in points].count("True") == 2
    losses = {row["run_id"]: row.get("final_eval_loss") for row in rows(swept)}
    assert all(losses[point["run_id"]] == point["loss"] for point in points)


def test_the_same_command_again_executes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SWEEP) == 0
    assert "all 20 runs are in" in capsys.readouterr().err
    assert main(["plan", "rates.py", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {run["action"] for run in plan["runs"]} == {"cached"}
    assert [item["state"] for item in plan["selections"]] == ["on the edge", "on the edge"]
    assert plan["expected"] == {}


def test_a_sweep_that_was_cut_in_the_middle_of_a_selection_ends_with_the_same_results(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(folder)
    store = Store(folder / "runs")
    gone = [row["run_id"] for row in before if row["stage"] == "evaluate" or (row["rank"], row["seed"]) == ("4", "2")]
    tuned = [row for row in before if row["purpose"] == "tuning" and row["rank"] == "4"]
    gone += [row["run_id"] for row in tuned if float(row["learning_rate"]) > 2e-5]
    gone += [row["run_id"] for row in before if (row["rank"], row["seed"]) == ("4", "1")]
    for run_id in dict.fromkeys(gone):
        store.forget(run_id)
    kept = {path.name: path.stat().st_mtime_ns for path in store.artefacts.iterdir()}

    assert main(["plan", "rates.py", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["expected"] == {"student": 2, "evaluate": 2}, "rank 2 is settled, rank 4 is not"
    assert main(["status", "rates.py"]) == 0
    assert "2 once tuned" in capsys.readouterr().out

    assert main(SWEEP) == 0
    assert rows(folder) == before
    assert {name: (store.artefacts / name).stat().st_mtime_ns for name in kept} == kept


def test_a_rate_given_by_hand_finds_the_runs_that_were_selected(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = [row for row in rows(folder) if (row["stage"], row["rank"], row["seed"]) == ("student", "2", "1")]
    (rate,) = {row["learning_rate"] for row in judged}
    words = ["--axis", "student.rank=2", "--set", f"student.learning_rate={rate}"]
    assert main([*SWEEP, *words]) == 0
    assert "all 6 runs are in" in capsys.readouterr().err


def test_a_tuning_run_that_failed_keeps_its_selection_open_until_it_is_made_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(folder / "runs")
    broken = next(row for row in rows(folder) if row["purpose"] == "tuning" and row["rank"] == "4")
    record = store.record(broken["run_id"])
    assert record is not None
    store.forget(record.id)
    failure = store.failures / record.id / "1"
    failure.mkdir(parents=True)
    failed = record.model_copy(update={"status": "failed", "error": "the disk went away"})
    (failure / "record.json").write_text(failed.model_dump_json())
    assert main(["plan", "rates.py"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 student and 2 evaluate runs once student.learning_rate is selected: 1 tuning run first" in said
    assert "failed before (attempt 1); tried once more" in said
    assert main(SWEEP) == 0
    capsys.readouterr()
    assert main(["plan", "rates.py", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["expected"] == {}
