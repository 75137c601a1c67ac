"""The piped form: every line of a real sweep parses, by the expression that docs/live.md gives."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.live.course import Course
from orchestrator.live.events import Ended, Planned, Started
from orchestrator.live.lines import INTERVAL_S, Lines
from orchestrator.live.state import Running
from tests.orchestrator.live.made_up import BEGAN, smoke, task

DOCS = Path(__file__).parents[3] / "docs/live.md"
ENDS = {"done", "diverged", "failed", "oom", "killed", "pruned", "skipped", "stopped"}

STUDY = '''
"""A teacher, an export that fails, those who need it, and one who does not."""
from orchestrator.study import Stage, Study

def build(scale):
    return Study(
        name="watched",
        description=__doc__,
        stages={
            "teacher": Stage("tests.fakes.learn", {"steps": 4, "pause_s": PAUSE, "prints": True}),
            "svd_export": Stage("tests.fakes.fail", {"how": "error", "reads": 1}, {"first": "teacher"}),
            "student": Stage("tests.fakes.noop", {"reads": 1}, {"first": "svd_export"}),
            "rival": Stage("tests.fakes.learn", {"steps": 6, "pause_s": PAUSE, "reads": 1}, {"first": "teacher"}),
        },
        axes={"student.seed": (1, 2, 3), "rival.seed": (1, 2)},
    )
'''


def pattern() -> re.Pattern[str]:
    (found,) = re.findall(r"^(\^ .*\$)$", DOCS.read_text(), re.MULTILINE)
    return re.compile(found)


def parsed(text: str) -> list[dict[str, str]]:
    found = [pattern().match(line) for line in text.splitlines()]
    assert all(found), [line for line, match in zip(text.splitlines(), found, strict=True) if not match]
    return [match.groupdict() for match in found if match]


def test_every_line_of_a_real_sweep_parses(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("watched.py").write_text(STUDY.replace("PAUSE", "0.0"))
    assert main(["sweep", "watched.py", "--local"]) == 1
    lines = capsys.readouterr().err.splitlines()
    events = [number for number, line in enumerate(lines) if pattern().match(line)]
    rows = parsed("\n".join(lines[events[0] : events[-1] + 1]))
    ends = {(row["subject"], row["event"]) for row in rows if row["event"] in ENDS}
    failed = {("svd_export", "failed"), ("s1", "skipped"), ("s2", "skipped"), ("s3", "skipped")}
    assert ends == {("teacher", "done"), ("rival s1", "done"), ("rival s2", "done"), *failed}
    assert (rows[-1]["done"], rows[-1]["total"], rows[-1]["left"]) == ("7", "7", "all done")
    (failure,) = [row for row in rows if row["event"] == "failed"]
    assert re.split("  +", failure["details"])[1:] == ["ValueError: there is no step 2"]
    assert all(line.endswith("no record") or "no record (" in line for line in lines[: events[0]])


def test_the_examples_of_the_page_are_lines() -> None:
    block = next(part for part in DOCS.read_text().split("```") if "held-out loss 5.347" in part)
    assert {row["event"] for row in parsed(block.strip("\n"))} == {"done", "note", "progress", "failed"}


def test_lines_of_every_kind_parse_whatever_is_in_them() -> None:
    events, _ = smoke()
    stream = io.StringIO()
    lines = Lines(Course(), stream)
    odd = task("student", 99, "a name  with   gaps and more than thirty-two characters", cost_s=3 * INTERVAL_S)
    told = [Planned(BEGAN, (odd,)), Started(BEGAN, odd.id, 1, "here", "cpu")]
    told += [Ended(BEGAN + 4000, odd.id, "oom", "held-out loss 1.0", "CUDA  out of\nmemory")]
    for event in [*events, *told]:
        lines.take(event)
    rows = parsed(stream.getvalue())
    assert rows[-1]["subject"] == "a name with gaps and more than thirty-two characters"
    assert re.split("  +", rows[-1]["details"]) == ["1 h 6 min", "held-out loss 1.0", "CUDA out of memory"]
    assert {"started", "failed", "skipped", "note", "oom"} <= {row["event"] for row in rows}


def test_the_running_runs_are_said_every_twenty_seconds_and_not_more_often() -> None:
    _, course = smoke()
    stream = io.StringIO()
    lines = Lines(course, stream)
    for second in range(int(3 * INTERVAL_S) + 2):
        lines.remind(BEGAN + 60 + second)
    rows = parsed(stream.getvalue())
    assert [(row["subject"], row["event"]) for row in rows] == [("sweep", "progress")] * 2
    assert [part.split(" step ")[0] for part in rows[0]["details"].split("; ")] == ["random r4 s2", "svd r4 s1"]
    assert len(course.state(BEGAN).running) == 2
    assert isinstance(course.state(BEGAN).running[0], Running)


@pytest.mark.parametrize(("option", "said"), [("--watch", "leave out"), ("--follow=s1", "leave out")])
def test_a_study_is_refused_where_the_sweep_is_watched(option: str, said: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["status", "smoke", option]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
