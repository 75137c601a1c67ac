"""A sweep whose teacher and student are gangs, through Ray on two cores, against one in a single process (C1, C5).

Where a run executes is no part of what it is: the ids are the same, and the numbers are, to the rounding of sums in
another order. 1e-4 is what the losses of ZeRO-3 may differ by in fp32.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.record import Record
from orchestrator.store import Store

ROOT = Path(__file__).parents[1]
SWEEP = [
    "sweep",
    "smoke",
    "--set",
    "teacher.steps=12",
    "--set",
    "student.steps=6",
    "--set",
    "student.learning_rate=3e-3",
]
SWEEP += ["--axis", "student.rank=4", "--axis", "student.seed=1", "--axis", "student.init=svd"]
GANGS = ["--place", "teacher.workers=2", "--place", "teacher.zero_stage=3", "--place", "student.workers=2"]
LOSSES = ("loss", "eval_loss", "grad_norm", "eval_token_accuracy")
TOLERANCE = 1e-4

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("alone") / "runs")
    assert main([*SWEEP, "--local", "--store", str(store.root)]) == 0
    return store


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("shared") / "runs")
    command = [sys.executable, "-m", "orchestrator", *SWEEP, *GANGS, "--store", str(store.root)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert ended.returncode == 0, ended.stderr
    return store


def records(store: Store) -> dict[str, Record]:
    return store.records(store.ids())


def of_stage(store: Store, stage: str) -> list[Record]:
    return [record for record in records(store).values() if record.stage == stage]


def test_the_runs_are_the_same_ones(alone: Store, shared: Store) -> None:
    assert shared.ids() == alone.ids()
    assert {record.status for record in records(shared).values()} == {"done"}


def test_teacher_and_student_were_shared_by_two_workers_one_gang_after_the_other(shared: Store) -> None:
    gangs = [*of_stage(shared, "teacher"), *of_stage(shared, "student")]
    assert len(gangs) == 2
    assert {record.provenance.place["workers"] for record in gangs} == {2}
    spans = sorted((record.provenance.started, record.provenance.finished) for record in gangs)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), "two cores hold one gang"


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_every_loss_is_that_of_one_process(alone: Store, shared: Store, stage: str) -> None:
    expected = records(alone)
    for found in of_stage(shared, stage):
        for name in LOSSES:
            wanted = expected[found.id].history[name]
            assert found.history[name] == pytest.approx(wanted, abs=TOLERANCE), (found.name, name)
        if stage == "teacher":  # the student starts where that has ended
            assert found.metrics["best_eval_loss"] < found.metrics["initial_eval_loss"]  # type: ignore[operator]


def test_what_starts_from_a_consolidated_teacher_measures_the_same(alone: Store, shared: Store) -> None:
    expected = records(alone)
    evaluated = of_stage(shared, "evaluate")
    assert len(evaluated) == 4
    for found in evaluated:
        wanted = expected[found.id].metrics["test_loss"]
        assert found.metrics["test_loss"] == pytest.approx(wanted, abs=TOLERANCE), found.name


def test_a_finished_run_does_not_care_where_it_would_be_placed_next(
    shared: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *SWEEP[1:], "--json", "--store", str(shared.root)]) == 0
    decisions = json.loads(capsys.readouterr().out)["runs"]
    assert {item["action"] for item in decisions} == {"cached"}
