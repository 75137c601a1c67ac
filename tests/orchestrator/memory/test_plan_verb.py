"""What `plan` and `sweep` say of placement, memory and disk, as a user reads it."""

import json

import pytest

from orchestrator.__main__ import main

SEVEN = ["rank_study", "--scale", "qwen2.5-math-7b"]
ALONE = ["--place", "teacher.workers=1", "--place", "teacher.zero_stage=0"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    return tmp_path


@pytest.mark.parametrize("width", [80, 100])
def test_the_plan_of_the_largest_scale_needs_no_hub_and_shows_bundles_memory_and_disk(
    folder, width, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["plan", *SEVEN]) == 0
    shown = capsys.readouterr().out
    assert "driver {} + 8 x {GPU 1, CPU 4} STRICT_PACK" in shown
    rows = [line.split() for line in shown.splitlines()]
    placed, held = (row for row in rows if row[:1] == ["teacher"])
    assert float(placed[-1]) == pytest.approx(170, abs=1), "two Adam checkpoints and the best, beside the artefact"
    assert held[1:4] == ["pass", "6.6", "3.8"]
    assert held[-2] == "79.0"
    assert all(len(line) <= width for line in shown.splitlines())
    assert "…" not in shown
    assert list(folder.iterdir()) == [], "looking creates nothing"


def test_the_plan_for_programs_has_the_same_in_bytes(folder, capsys):
    assert main(["plan", *SEVEN, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    stages = {stage["stage"]: stage for stage in answer["stages"]}
    memory = stages["teacher"]["memory_bytes_per_worker"]
    parts = [memory[name] for name in ("weights", "gradients", "optimiser", "activations")]
    assert sum(parts) == pytest.approx(memory["device"])
    assert memory["device"] < memory["device_limit"]
    assert stages["student"]["runs"] == 70 + 5 * 2 * (3 * 2 + 2 * 6), "verdicts; three rates on two seeds, two race on"
    assert answer["disk_gib"] > 91e9 / 2**30


@pytest.mark.parametrize("verb", ["plan", "sweep"])
def test_a_run_that_cannot_fit_is_refused_in_one_line_with_the_way_out(folder, verb, capsys):
    assert main([verb, *SEVEN, *ALONE]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert complaint.startswith("orchestrator: teacher needs 1")
    assert "--place teacher.workers=4 --place teacher.zero_stage=3" in complaint
    assert len(complaint) < 600
    assert list(folder.iterdir()) == []


def test_a_plan_that_cannot_fit_is_shown_when_told_to(folder, capsys):
    assert main(["plan", *SEVEN, *ALONE, "--oversubscribe"]) == 0
    assert "note   memory" in capsys.readouterr().out


def test_a_model_not_known_yet_says_so(folder, capsys):
    assert main(["plan", "rank_study", "--set", "base_model.source=tiny-llama"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "disk unknown" in shown
    assert "memory and disk are known once model and data are there" in shown


def test_help_lists_every_scale(capsys):
    from search_spaces.scales import SCALES

    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    shown = capsys.readouterr().out.replace("\n", "").replace(" ", "")
    assert all(scale in shown for scale in SCALES)
