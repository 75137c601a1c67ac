"""What a killed driver has left in Ray's folder, and that nothing else there is touched."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.leftovers import clear
from orchestrator.driver_lock import Holder
from orchestrator.store import Store

HERE = socket.gethostname()
DEAD = 2**22 + 5
"""A number that no process can have."""


def session(root: Path, seconds: float, pid: int) -> Path:
    moment = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(seconds))
    folder = root / "ray" / f"session_{moment}_123456_{pid}"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return tmp_path


def test_only_sessions_of_that_driver_since_it_had_the_store_are_removed(root: Path) -> None:
    now = time.time()
    ours = session(root, now + 2, DEAD)
    others = [session(root, now - 60, DEAD), session(root, now + 2, DEAD + 1), root / "ray" / f"session_latest_{DEAD}"]
    others[-1].mkdir()
    store, former = (
        Store(root / "runs"),
        [Holder(DEAD, HERE, now, "sweep"), Holder(DEAD + 1, "elsewhere", now, "sweep")],
    )
    (store.work / ".tune-x1").mkdir(parents=True)
    (store.work / "student-0123456789ab").mkdir()
    clear(store, former)
    assert not ours.exists()
    assert all(folder.is_dir() for folder in others)
    assert former == []
    assert [path.name for path in store.work.iterdir()] == ["student-0123456789ab"]


def test_a_session_in_which_something_lives_is_left_and_removed_when_it_has_ended(root: Path) -> None:
    now = time.time()
    folder = session(root, now, DEAD)
    former = [Holder(DEAD, HERE, now, "sweep")]
    with subprocess.Popen(
        [sys.executable, "-c", "input()", f"--session-dir={folder}"], stdin=subprocess.PIPE
    ) as process:
        while str(folder) not in Path(f"/proc/{process.pid}/cmdline").read_text():
            time.sleep(0.01)
        clear(Store(root / "runs"), former)
        assert folder.is_dir()
        assert len(former) == 1
        process.communicate(b"\n")
    clear(Store(root / "runs"), former)
    assert not folder.exists()
    assert former == []


def test_the_lock_names_those_who_were_killed_with_it_until_they_are_cleared(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    code = "import os, sys; from pathlib import Path; from orchestrator.store import Store\n"
    code += "with Store(Path(sys.argv[1])).lock('sweep held'): os.kill(os.getpid(), 9)"
    killed = [subprocess.Popen([sys.executable, "-c", code, str(store.root)]) for _ in range(2)]
    for process in killed:
        process.wait()
    assert store.was_cut()
    for _ in range(2):
        with store.lock("next") as former:
            assert {one.pid for one in former} <= {process.pid for process in killed}
            assert former
    with store.lock("next") as former:
        former.clear()
    assert not store.was_cut()
