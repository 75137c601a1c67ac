"""Answers side by side: who is right, what each arm gains and loses, in the terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.__main__ import main
from orchestrator.errors import UserError
from orchestrator.report.answers import SideBySide, TerminalAnswers, read
from orchestrator.report.answers.sides import Question, Subject, _without_template
from orchestrator.report.answers.sides import Told as Given
from orchestrator.report.answers.terminal import plain, shortened
from orchestrator.store import Store
from tests.orchestrator.recorded import Asked, Told, fill, folds, planned

WRONG = {"random": {1: range(5), 2: range(4)}, "svd": {1: range(3, 6), 2: range(3, 6)}}
"""Numbers of the questions that an arm has wrong with a seed: svd gains 0, 1, 2 and half of 4 ... and loses 5."""


def tell(asked: Asked) -> Told:
    if asked.arm:
        is_wrong = asked.number in WRONG[asked.arm][asked.seed]
        return Told(2.0, f"{asked.arm} says {asked.number}" if is_wrong else None)
    return Told(2.0, "no" if asked.stage == "base_model" else None)


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> SideBySide:
    folder = tmp_path_factory.mktemp("answers")
    plan, store = planned(folder, count=30), Store(folder)
    fill(plan, store, tell)
    (found,) = read(plan, store)
    return found


def ids(questions) -> list[str]:
    return [question.id for question in questions]


def test_an_arm_gains_what_it_has_right_more_often_and_loses_the_rest(sides):
    (svd,) = sides.arms
    assert ids(sides.gained(svd)) == ["item000", "item001", "item002"]
    assert ids(sides.lost(svd)) == ["item004", "item005"]
    assert sides.gain(svd, sides.questions[4]) == -0.5
    assert ids(sides.only("gained")) == ids(sides.gained(svd))
    assert ids(sides.only("lost")) == ids(sides.lost(svd))
    assert len(sides.only(None)) == 30


def test_differing_are_the_questions_that_not_all_answer_alike(sides):
    assert len(sides.only("differing")) == 30, "the base model is always wrong, the teacher always right"
    alone = SideBySide(sides.group, [s for s in sides.subjects if s.is_arm], sides.questions, sides.baseline)
    assert ids(alone.only("differing")) == ["item000", "item001", "item002", "item004", "item005"]


def test_the_share_of_right_answers_is_over_questions_and_seeds(sides):
    by_label = {subject.label: subject.right(sides.questions) for subject in sides.subjects}
    assert by_label == {
        "base model": (0, 30),
        "teacher": (30, 30),
        "svd, untrained": (30, 30),
        "random": (25.5, 30),
        "svd": (27, 30),
    }


def rendered(sides: SideBySide, width: int, **options) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(TerminalAnswers(sides, **{"limit": 6, **options}))
    return console.file.getvalue()


def test_a_wide_terminal_has_a_column_for_each_subject_and_a_narrow_one_none(sides):
    wide, narrow = rendered(sides, 140), rendered(sides, 80)
    for text, width in ((wide, 140), (narrow, 80)):
        assert all(len(line) <= width for line in text.splitlines())
        assert "Rank 4: 30 questions" in text
        assert "25.5 of 30" in text
    assert any("question" in line and "reference" in line and "svd" in line for line in wide.splitlines())
    row = next(line for line in wide.splitlines() if line.startswith("What is 4 + 4?"))
    assert "1/2 random says 4" in row
    assert "✗ svd says 4" in row
    assert "What is 4 + 4?\n" in narrow.replace(" \n", "\n").replace("  ", "")


def test_only_and_the_rest_are_said(sides):
    assert "2 of 2 questions (lost)." in rendered(sides, 140, only="lost")
    assert "6 of 30 questions; more with --items 30; --only gained, lost or differing" in rendered(sides, 140)


def test_a_long_answer_is_shown_by_its_beginning_and_its_end():
    words = " ".join(f"step{i}" for i in range(500))
    question = Question(("a",), "q " * 100, "42")
    subject = Subject("random", True, {("a",): [Given("student-1", f"{words} so it is 42", True)]})
    sides = SideBySide({}, [subject], [question], "random")
    for width in (40, 80, 200):
        text = rendered(sides, width)
        assert "step0 " in text
        assert "so it is 42" in " ".join(text.split())
        assert "step250" not in text
    assert shortened("short") == "short"


def test_what_a_model_says_cannot_command_the_terminal():
    evil = "\x1b[2J\x1b]0;title\x07[red]4[/red]\r\n2"
    question = Question(("a",), evil, evil)
    subject = Subject("random", True, {("a",): [Given("student-1", evil, False)]})
    text = rendered(SideBySide({}, [subject], [question], "random"), 80)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]4[/red]" in text, "no markup either"
    assert plain("a\nb\tc") == "a b c"


def test_a_chat_template_around_every_prompt_is_not_shown():
    begin, end = "<|system|>Be brief.<|end|>\n<|user|>", "<|end|>\n<|assistant|>\n"
    prompts = {("a",): f"{begin}What is 1?{end}", ("b",): f"{begin}What is 2?{end}"}
    assert _without_template(prompts) == {("a",): "What is 1?", ("b",): "What is 2?"}
    assert _without_template({("a",): "alone"}) == {("a",): "alone"}


def command(folder: Path, *more: str) -> list[str]:
    source = folder / "questions.json"
    three = ["--set", "dataset.folds=3", "--axis", "dataset.fold=0,1,2"]
    study = ["report", "smoke", "--set", f"dataset.source={source}", *three, "--axis", "student.rank=2,4"]
    return [*study, "--store", str(folder), "--answers", *more]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    three = folds(3)
    plan = planned(folder, settings=three["settings"], axes=(*three["axes"], "student.rank=2,4"), count=30)
    fill(plan, Store(folder), tell)
    return folder


def test_the_files_have_every_answer_of_every_rank_fold_and_seed(recorded, capsys):
    assert main(command(recorded, "--only", "gained")) == 0
    said = capsys.readouterr().out
    assert "Rank 4: 30 questions" in said
    assert "ranks with answers: 2,4; another with --rank" in said
    report = recorded / "reports/smoke"
    assert str(report / "answers.md") in said
    with (report / "answers.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * (3 * 30 + 2 * 2 * 30)
    arms = [row for row in rows if row["subject"] == "random" and row["rank"] == "2"]
    assert sum(row["correct"] == "0" for row in arms) == 9
    markdown = (report / "answers.md").read_text()
    assert markdown.count("### ") == 3
    assert "| svd | 2 | 27 of 30 | 3 | 2 |" in markdown


def test_json_lists_what_is_gained_and_lost(recorded, capsys):
    assert main(command(recorded, "--json", "--rank", "2,4", "--items", "1")) == 0
    said = json.loads(capsys.readouterr().out)
    assert [part["group"]["rank"] for part in said] == [2, 4]
    assert said[0]["gained"] == {"svd": ["item000", "item001", "item002"]}
    assert len(said[0]["questions"]) == 1
    assert set(said[0]["questions"][0]["answers"]) == {"base model", "teacher", "svd, untrained", "random", "svd"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rank", "16"], "--rank 16: the study has answers at rank 2, 4"),
        (["--items", "0"], "give 1 or more"),
        (["--only", "best"], "invalid choice"),
    ],
)
def test_mistakes_are_one_line_with_the_way_out(recorded, capsys, options, message):
    try:
        code = main(command(recorded, *options))
    except SystemExit as leave:
        code = leave.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_choice_among_answers_without_answers_is_refused(recorded, capsys):
    without = [word for word in command(recorded, "--only", "lost") if word != "--answers"]
    assert main(without) == 2
    assert "--only lost chooses among answers: add --answers" in capsys.readouterr().err


def test_nothing_evaluated_is_said_with_the_way_to_see_it(tmp_path):
    plan, store = planned(tmp_path), Store(tmp_path)
    with pytest.raises(UserError, match=r"no answers of smoke are there: .* python -m orchestrator status smoke"):
        read(plan, store)
