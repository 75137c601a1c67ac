"""What the README says is run as it stands there, at the tiny scale where it would train a real model."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from orchestrator.__main__ import main

README = (Path(__file__).parents[1] / "README.md").read_text()
COMMAND = re.compile(r"^python -m orchestrator ([^#\n]*)", re.MULTILINE)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(containing=""):
    found = [match.strip() for block in blocks("sh") for match in COMMAND.findall(block)]
    return [shlex.split(text) for text in found if containing in text]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(folder, study):
    with (folder / "runs" / "reports" / study / "results.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_quick_start_holds_exactly_two_commands():
    quick_start = README.split("## Quick start")[1].split("\n## ")[0]
    found = re.findall(r"^```sh\n(.*?)^```", quick_start, re.MULTILINE | re.DOTALL)
    assert [block.strip() for block in found] == [
        "pip install -e . && python -m orchestrator sweep rank_study",
        "pip install -e '.[test]' && python -m pytest",
    ]


def test_every_verb_of_the_readme_exists_and_every_verb_is_in_it():
    from orchestrator.cli import VERBS

    verbs = {module.__name__.rpartition(".")[2].rstrip("_") for module in VERBS}
    assert verbs <= {words[0] for words in commands()} | {"sweep"}
    assert {words[0] for words in commands()} <= verbs


NEEDS_A_MODEL = re.compile(r"--teacher|base_model\.source")
"""Commands that name a checkpoint or a hub id; a given teacher runs for real below."""


@pytest.mark.parametrize(
    "words",
    [words for words in commands("sweep rank_study --") if not NEEDS_A_MODEL.search(" ".join(words))],
    ids=" ".join,
)
def test_every_change_that_the_readme_shows_can_be_planned(folder, words, capsys):
    (folder / "train.json").write_text(json.dumps([{"question": f"{n}?", "answer": str(n)} for n in range(81)]))
    assert main(["plan", *words[1:]]) == 0
    assert "rank_study" in capsys.readouterr().out


def test_the_plan_of_the_7b_scale_is_what_the_readme_shows(folder, capsys):
    (words,) = commands("--scale qwen2.5-math-7b")
    assert main(words) == 0
    said = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    shown = README.split(" ".join(words))[1].split("```")[1].split("\n\nA run")[0].splitlines()
    lines = [line.strip() for line in shown if line.strip()]
    assert len(lines) == 6
    assert [line for line in lines if line not in said] == []


def test_the_readmes_own_study_runs_as_it_is_shown(folder, capsys):
    (study,) = blocks("python")
    (folder / "rslora_study.py").write_text(study)
    (words,) = commands("rslora_study.py")
    assert main([*words, "--local", "--axis", "student.seed=1", "--axis", "student.rank=2"]) == 0
    students = [row for row in rows(folder, "rslora_study") if row["stage"] == "student"]
    assert {(row["init"], row["use_rslora"], row["status"]) for row in students} == {
        (init, stabilised, "done") for init in ("random", "svd") for stabilised in ("True", "False")
    }
    assert "rslora_study at scale tiny" in capsys.readouterr().out


def test_81_records_of_a_flat_json_list_and_a_given_teacher_run_as_they_are(folder):
    """The file of the first users, and a teacher that is a folder as transformers saves it."""
    from trainables.base_models.tiny import build

    (folder / "my-finetuned-model").mkdir()
    build("qwen2", 7, folder / "my-finetuned-model")
    records = [{"question": f"What is {n} + {n + 1}?", "answer": str(2 * n + 1)} for n in range(81)]
    (folder / "train.json").write_text(json.dumps(records))
    (data,) = commands("dataset.source=train.json")
    (teacher,) = commands("--teacher")
    more = ["--scale", "tiny", "--local", "--axis", "student.rank=2", "--axis", "student.seed=1"]
    assert main([*data, *teacher[2:], *more]) == 0
    table = rows(folder, "rank_study")
    assert {row["status"] for row in table} == {"done"}
    teachers = [row for row in table if row["stage"] == "teacher"]
    assert len(teachers) == 1
    record = json.loads((folder / "runs" / "artefacts" / teachers[0]["run_id"] / "record.json").read_text())
    assert record["trainable"] == "base_model"


def test_the_same_command_again_executes_nothing_and_a_new_rank_only_its_own_runs(folder, capsys):
    def sweep(*ranks):
        axis = f"student.rank={','.join(map(str, ranks))}"
        words = ["sweep", "smoke", "--local", "--axis", axis, "--axis", "student.seed=1"]
        assert main([*words, "--set", "teacher.steps=4", "--set", "student.steps=4"]) == 0
        return {path.parent.name: path.stat().st_mtime_ns for path in (folder / "runs/artefacts").glob("*/record.json")}

    first = sweep(2, 4)
    capsys.readouterr()
    assert sweep(2, 4) == first
    assert "nothing to execute" in capsys.readouterr().err
    more = sweep(2, 4, 8)
    assert first.items() <= more.items(), "a finished run was executed again"
    new = sorted(run_id.rpartition("-")[0] for run_id in set(more) - set(first))
    assert new == ["evaluate"] * 3 + ["student"] * (2 + 2 * 3), "two of them judged, six to choose their rates"
