"""The screen on a pseudo-terminal, with a sweep, a watcher and a follower as processes of their own."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.live.screen import suits
from tests.orchestrator.live.test_lines import STUDY, parsed

ROOT = Path(__file__).parents[3]
ENTER, LEAVE, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"
HOME = "\x1b[H"
PATIENCE_S = 120.0
CHATTER = re.compile(r"\bray\b|raylet|\bTune\b|Trial|printed at|Traceback", re.IGNORECASE)


class Terminal:
    """A command on a pseudo-terminal of its own; `read` keeps all that it has shown."""

    def __init__(self, folder: Path, *arguments: str, size: tuple[int, int] = (80, 24), **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(*size)
        env = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "COLUMNS", "LINES")}
        env |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment}
        command = [sys.executable, "-m", "orchestrator", *arguments]
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.shown = ""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, until: Callable[[str], bool]) -> None:
        """Read until something holds of all that was shown, or the command has ended."""
        deadline = time.monotonic() + PATIENCE_S
        data = b""
        while not until(self.shown):
            assert time.monotonic() < deadline, self.shown[-3000:]
            if select.select([self.master], [], [], 0.5)[0]:
                try:
                    data += os.read(self.master, 65536)
                except OSError:  # the other end is closed
                    return
                with contextlib.suppress(UnicodeDecodeError):
                    self.shown, data = self.shown + data.decode(), b""

    def end(self) -> int:
        self.read(lambda shown: False)
        return self.process.wait(PATIENCE_S)

    def frames(self) -> list[list[str]]:
        """Return the screens that were drawn, each as its lines without colours."""
        drawn = self.shown.partition(ENTER)[2].partition(LEAVE)[0].split(HOME)
        plain = [re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", frame) for frame in drawn]
        return [[line.rstrip() for line in frame.split("\r\n")] for frame in plain if frame.strip()]

    def lasting(self) -> str:
        """Return what stays on the terminal when the screen has gone."""
        return (self.shown.partition(ENTER)[0] + self.shown.rpartition(LEAVE)[2]).replace("\r\n", "\n")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def run(*arguments: str, pause_s: float = 0.3, **options: object) -> Terminal:
        (tmp_path / "watched.py").write_text(STUDY.replace("PAUSE", str(pause_s)))
        opened.append(Terminal(tmp_path, *arguments, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield run
    for one in opened:
        one.close()


def test_the_screen_is_left_whole_and_what_lasts_is_what_a_pipe_shows(terminal, tmp_path: Path) -> None:
    sweep = terminal("sweep", "watched.py", "--local")
    assert sweep.end() == 1
    frames = sweep.frames()
    assert all(len(frame) == 24 and max(map(len, frame)) <= 80 for frame in frames)
    assert any("1 running" in line for line in frames[-1] + frames[1])
    assert any(re.search(r"rival s1 +\d/6 +\d\.\d{3}", line) for frame in frames for line in frame)
    assert sweep.shown.count(ENTER) == sweep.shown.count(LEAVE) == 1
    assert sweep.shown.rindex(SHOW_CURSOR) > sweep.shown.index(ENTER)
    lasting = sweep.lasting()
    assert "1 of the svd_export runs failed; first: svd_export-" in lasting
    assert "everything is in" in lasting
    assert "printed at" not in sweep.shown
    log = (tmp_path / "runs/sweep.log").read_text().splitlines()
    assert sum(line.startswith("printed at") for line in log) == 5
    assert len(parsed("\n".join(line for line in log if not line.startswith("printed at")))) >= 7


class Tty(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_screen_is_for_terminals_that_can_and_for_people(monkeypatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert suits(Tty())
    assert not suits(io.StringIO())
    for name, value in (("CI", "true"), ("TERM", "dumb"), ("TERM", "")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not suits(Tty()), (name, value)


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"CI": "true"}, {"TERM": "dumb"}, {"TERM": ""}])
def test_without_a_terminal_that_can_there_are_lines(environment: dict[str, str], terminal) -> None:
    sweep = terminal("sweep", "watched.py", "--local", pause_s=0.0, **environment)
    assert sweep.end() == 1
    assert "\x1b" not in sweep.shown
    assert "svd_export                        failed" in sweep.shown


@pytest.mark.slow
def test_a_sweep_through_ray_is_watched_followed_resized_and_stopped(terminal, tmp_path: Path) -> None:
    sweep = terminal("sweep", "watched.py", pause_s=2.0, size=(100, 30))
    journal = tmp_path / "runs/sweep.jsonl"
    sweep.read(lambda shown: ENTER in shown)
    watcher = terminal("status", "--watch", pause_s=2.0, size=(100, 30))
    follower = terminal("status", "--follow", "teacher", pause_s=2.0)
    sweep.read(lambda shown: journal.read_text().count('"started"') >= 4)
    sweep.resize(60, 20)
    sweep.read(lambda shown: len(sweep.frames()[-1]) == 20 and max(map(len, sweep.frames()[-1])) <= 60)
    watcher.read(lambda shown: any("rival s" in line for frame in watcher.frames()[-1:] for line in frame))
    assert any(line.startswith(" student") and line.split()[-1] == "3" for line in watcher.frames()[-1]), (
        "three are skipped"
    )
    os.killpg(sweep.process.pid, signal.SIGINT)
    assert sweep.end() == 130
    assert "stopping: the running runs leave a checkpoint" in sweep.lasting()
    assert re.search(r"stopped with \d of \d+ runs finished in .*; the same command goes on", sweep.lasting())
    assert "everything is in" not in sweep.lasting()
    assert watcher.end() == 0
    assert follower.end() == 0
    assert "waiting for teacher-" in follower.shown or "step 0" in follower.shown
    assert re.search(r"step 4\r\ndone  \d+ s  held-out loss \d\.\d{3}", follower.shown)
    for shown in (sweep.shown, watcher.shown, follower.shown):
        assert CHATTER.search(shown) is None, CHATTER.search(shown)
