"""lora_search for real on the tiny model: killed, run again, extended; no run twice; its best point as a study."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.__main__ import main
from orchestrator.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = ["--set", "dataset.items=60", "--set", "dataset.validation=5", "--set", "dataset.test=5"]
SEARCH = ["sweep", "lora_search", "--scale", "tiny", "--local", "--axis", "student.seed=1", *SMALL]
ROOT = Path(__file__).parents[2]


def made(store: Store) -> dict[str, int]:
    return {run_id: (store.artefact(run_id) / "record.json").stat().st_mtime_ns for run_id in store.ids()}


def asked(store: Store) -> list[dict]:
    (path,) = (store.root / "searches").glob("*.json")
    return [point["values"] for point in json.loads(path.read_text())["points"]]


def killed(arguments: list[str], store: Store, after: int) -> None:
    """Start the command in a process of its own, and kill it once so many students are done."""
    command = [sys.executable, "-m", "orchestrator", *arguments]
    process = subprocess.Popen(command, cwd=store.root.parent, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"})
    while sum(run_id.startswith("student-") for run_id in store.ids()) < after and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_and_run_again_and_extended_it_executes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "runs")
    killed([*SEARCH, "--points", "6"], store, after=2)
    before, known = made(store), asked(store)
    assert len(known) < 6

    assert main([*SEARCH, "--points", "6"]) == 0
    assert asked(store)[: len(known)] == known
    assert len(asked(store)) == 6
    assert before.items() <= made(store).items()
    before, known = made(store), asked(store)

    assert main([*SEARCH, "--points", "9"]) == 0
    assert asked(store)[:6] == known
    assert len(asked(store)) == 9
    assert before.items() <= made(store).items()
    before = made(store)
    (tmp_path / "runs/optuna.journal").unlink()
    capsys.readouterr()
    assert main([*SEARCH, "--points", "9"]) == 0
    assert "nothing to execute" in capsys.readouterr().err
    assert made(store) == before

    storage = JournalStorage(JournalFileBackend("runs/optuna.journal"))
    trials = optuna.load_study(study_name="lora_search tiny", storage=storage).trials
    assert [trial.params for trial in trials] == asked(store)

    best = "runs/reports/lora_search/best.py"
    capsys.readouterr()
    assert main(["plan", best, "--axis", "student.seed=1", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    students = {run["name"]: run["action"] for run in runs if run["id"].startswith("student-")}
    assert students["best s1"] == "cached", "on the search's own seed its best point is the search's own run"
    assert main(["plan", best, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert {run["action"] for run in runs if run["name"].startswith("best")} == {"run"}
