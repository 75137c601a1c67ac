"""The studies executed for real, on tiny models in this process: what a study varies is what its runs differ in."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from orchestrator.__main__ import main
from search_spaces.scales import SCALES

pytestmark = pytest.mark.slow
ONE_SEED = ("--axis", "student.seed=1", "--set", "student.learning_rate=3e-3")
SMALL = ("--set", "dataset.items=120", "--set", "dataset.test=10", "--set", "dataset.validation=10")
LAYOUTS = ("tiny-qwen2", "tiny-gpt2")
TINY = SCALES["tiny"]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return what sweeps a study at scale tiny and returns its results."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *options: str) -> pd.DataFrame:
        assert main(["sweep", name, "--scale", "tiny", "--local", *ONE_SEED, *SMALL, *options]) == 0
        assert (tmp_path / f"runs/reports/{name}/report.html").is_file()
        return pd.read_csv(tmp_path / f"runs/reports/{name}/results.csv")

    return run


def test_every_init_and_every_arm_beside_them(sweep) -> None:
    found = sweep("init_study")
    students = found[found["stage"] == "student"].set_index("arm")
    tested = found[found["stage"] == "evaluate"].set_index("subject")
    assert len(students) == 12
    assert set(students["status"]) == {"done"}
    base = students.loc["random", "initial_eval_loss"]
    at_base = ["subspace_only", "svd_subtracted", "pissa", "compute_matched"]
    assert list(students.loc[at_base, "initial_eval_loss"]) == pytest.approx([base] * 4, rel=1e-5)
    at_teacher = students.loc[["svd", "svd_balanced", "zero_step", "unseen"], "initial_eval_loss"]
    assert list(at_teacher) == pytest.approx([at_teacher.iloc[0]] * 4, rel=1e-5)
    assert at_teacher.iloc[0] < base
    assert students.loc["wrong_teacher", "initial_eval_loss"] > at_teacher.iloc[0]
    assert students.loc["zero_step", "test_loss"] == pytest.approx(tested.loc["svd_export", "test_loss"], rel=1e-5)
    assert students.loc["compute_matched", "steps"] == TINY.compute_matched_steps(TINY.rank) > TINY.student["steps"]
    assert students.loc["unseen", "test_loss"] != students.loc["svd", "test_loss"]
    for reference in ("teacher_continued", "wrong_teacher", "high_rank_student"):
        assert tested.loc[reference, "test_loss"] != tested.loc["teacher", "test_loss"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_scaling_changes_the_steps_and_not_the_start(sweep, layout: str) -> None:
    found = sweep("alpha_study", "--set", f"base_model.source={layout}", "--axis", "student.rank=8")
    svd = found[(found["stage"] == "student") & (found["init"] == "svd")].set_index("alpha")
    assert list(svd["initial_eval_loss"]) == pytest.approx([svd.loc["r", "initial_eval_loss"]] * 4, rel=1e-5)
    assert svd["final_eval_loss"].nunique() == 4
    assert dict(svd["lora_alpha"].dropna()) == {"r/2": 4.0, "2r": 16.0}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_adapters_sit_on_the_layers_that_are_named(sweep, layout: str) -> None:
    found = sweep("target_study", "--set", f"base_model.source={layout}")
    students = found[found["stage"] == "student"]
    size = students[students["init"] == "svd"].set_index("targets")["trainable_parameters"]
    assert size["qv"] < size["attention"]
    assert size["attention"] + size["mlp"] == size["all-linear"]
    exports = found[found["stage"] == "svd_export"].set_index("targets")
    change = exports["delta_norm"] ** 2
    assert change["attention"] + change["mlp"] == pytest.approx(change["all-linear"])


def test_a_mean_of_three_members_teaches_students_that_do_not_follow_their_seeds(sweep) -> None:
    found = sweep("synthesized_teacher", "--axis", "student.rank=4")
    counts = found["stage"].value_counts()
    assert (counts["member"], counts["teacher"], counts["student"]) == (3, 1, 2)
    (teacher,) = found[found["stage"] == "teacher"].to_dict("records")
    assert (teacher["members"], teacher["member_rank"]) == (3, TINY.high_rank)
    report = Path("runs/reports/synthesized_teacher/report.md").read_text()
    assert "| rank | init | n |" in report
    assert "for this teacher and split" in report


def test_an_ia3_teacher_is_factorised_as_any_other(sweep) -> None:
    found = sweep("ia3_teacher", "--axis", "student.rank=4")
    assert set(found["status"]) == {"done"}
    (export,) = found[found["stage"] == "svd_export"].to_dict("records")
    assert 0 < export["energy_4"] < 1
