"""A sweep from the command line, over fakes: what fails, what is skipped, what goes on, and the exit code (C8)."""

import json
from pathlib import Path

import pytest

from orchestrator.__main__ import main

STUDY = '''
"""One export fails; who needs it is skipped."""
from orchestrator.study import Stage, Study

def build(scale):
    return Study(
        name="broken",
        description=__doc__,
        stages={
            "teacher": Stage("tests.fakes.noop"),
            "svd_export": Stage("tests.fakes.fail", {"how": HOW, "reads": 1}, {"first": "teacher"}),
            "student": Stage("tests.fakes.noop", {"reads": 1}, {"first": "svd_export"}),
            "rival": Stage("tests.fakes.noop", {"seed": 5, "reads": 1}, {"first": "teacher"}),
        },
        axes={"student.seed": (1, 2, 3)},
    )
'''


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(how, *more):
        Path("broken.py").write_text(STUDY.replace("HOW", repr(how)))
        code = main(["sweep", "broken.py", "--local", *more])
        return code, capsys.readouterr().err

    return run


def finished():
    records = [json.loads(path.read_text()) for path in Path("runs/artefacts").glob("*/record.json")]
    return sorted(record["stage"] for record in records if record["status"] == "done")


def test_a_failed_export_leaves_its_dependants_skipped_and_everything_else_finished(sweep, capsys):
    code, said = sweep("error")
    assert code == 1
    assert finished() == ["rival", "teacher"]
    assert said.count("skipped") >= 3
    (failure,) = [line for line in said.splitlines() if line.startswith("1 of the svd_export runs failed")]
    log = Path(failure.rpartition("log: ")[2])
    assert "there is no step 2" in log.read_text()
    assert main(["status", "broken.py"]) == 0
    assert "1 failed" in capsys.readouterr().out


def test_a_failed_run_is_tried_once_more_by_the_next_command_and_finished_ones_are_not(sweep):
    sweep("error")
    before = {path: path.stat().st_mtime_ns for path in Path("runs/artefacts").glob("*/record.json")}
    code, said = sweep("error")
    assert code == 1
    assert "failed before (attempt 1); tried once more" in said
    assert sorted(path.name for path in next(Path("runs/failures").iterdir()).iterdir()) == ["1", "2"]
    assert {path: path.stat().st_mtime_ns for path in Path("runs/artefacts").glob("*/record.json")} == before


def test_a_diverged_run_is_final_until_it_is_retried_on_purpose(sweep):
    assert sweep("diverge")[0] == 1
    code, said = sweep("diverge")
    assert code == 1
    assert "nothing to execute" in said
    _, said = sweep("diverge", "--retry", "diverged")
    assert "svd_export" in said
    assert "nothing to execute" not in said


def test_redo_makes_one_run_again_and_only_that(sweep):
    sweep("diverge")
    times = {path.parent.name: path.stat().st_mtime_ns for path in Path("runs/artefacts").glob("*/record.json")}
    sweep("diverge", "--redo", "rival")
    after = {path.parent.name: path.stat().st_mtime_ns for path in Path("runs/artefacts").glob("*/record.json")}
    assert {run_id.rpartition("-")[0] for run_id in times if times[run_id] != after[run_id]} == {"rival"}


def test_running_out_of_memory_is_named_as_such(sweep):
    code, said = sweep("memory")
    assert code == 1
    assert "oom" in said


def test_what_can_never_be_placed_is_refused_and_leaves_no_views_behind(sweep):
    code, said = sweep("error", "--place", "teacher.workers=2", "--place", "teacher.gpus=64")
    assert code == 2
    assert "teacher asks for 2 x 64 GPUs" in said.splitlines()[-1]
    assert [path.name for path in Path("runs").rglob("*")] in (["driver.lock"], [])
