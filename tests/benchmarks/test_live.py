"""What the live screen costs: CPU of the thread that draws, of a watcher, and of taking a step; 64 runs at once.

python -m pytest -n 0 -m benchmark -s tests/benchmarks/test_live.py
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import threading
import time
from pathlib import Path

import pytest

from cluster.notes import append_rows, write_progress
from orchestrator.live.events import Began, Journal, Planned
from orchestrator.live.screen import REFRESH_HZ, Drawn
from orchestrator.live.watch import Watcher
from orchestrator.store import Store
from tests.orchestrator.live.made_up import BEGAN, crowd

pytestmark = pytest.mark.benchmark

SECONDS = 20.0


def share(begun: tuple[float, float]) -> str:
    wall, cpu = begun
    return f"{100 * (time.process_time() - cpu) / (time.monotonic() - wall):.2f} % of one CPU"


def test_a_screen_of_64_runs() -> None:
    course = crowd(64)
    for size in ((80, 24), (160, 45)):
        master, slave = pty.openpty()
        os.set_blocking(master, False)
        stop = threading.Event()
        stream = os.fdopen(slave, "w", encoding="utf-8")
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        with Drawn(stream, lambda: course.state(BEGAN + 30), "hint"):
            begun = time.monotonic(), time.process_time()
            read = 0
            while time.monotonic() - begun[0] < SECONDS:
                stop.wait(0.25)
                try:
                    read += len(os.read(master, 1 << 20))
                except BlockingIOError:
                    continue
            print(
                f"\nscreen {size[0]} x {size[1]}, {REFRESH_HZ:g} Hz: {share(begun)}, {read / SECONDS / 1024:.1f} KiB/s"
            )
        stream.close()
        os.close(master)


def test_a_step_of_a_run() -> None:
    course = crowd(64)
    count = 100_000
    began = time.process_time()
    for step in range(count):
        now = BEGAN + step / 1000
        metrics = {"loss": 1.0, "tokens": 1.0 * step}
        course.measured("student-000000000001", metrics, step=step, total=count, clock_s=now, at=now)
    print(f"\na step: {1e6 * (time.process_time() - began) / count:.1f} us")


def test_a_watcher_of_64_runs(tmp_path: Path) -> None:
    source = crowd(64)
    journal = Journal(tmp_path)
    tasks = tuple(source.tasks.values())
    for event in (Began(BEGAN, "rank_study", 64, {}), Planned(BEGAN, tasks), *source.started.values()):
        journal.write(event)
    folders = [tmp_path / "work" / run_id / "1" for run_id in source.started]
    for folder in folders:
        folder.mkdir(parents=True)
    watcher = Watcher(Store(tmp_path))
    cpu, looks = 0.0, 40
    for look in range(looks):
        for folder in folders:
            append_rows(folder, [{"step": 2 * look + one, "loss": 1.0} for one in range(2)])
            write_progress(folder, {"step": 2 * look + 1, "total": 100, "seconds": 1.0 * look})
        began = time.process_time()
        watcher.look()
        cpu += time.process_time() - began
    assert all(run.step == 2 * looks - 1 for run in watcher.state().running)
    print(
        f"\na look: {1e3 * cpu / looks:.1f} ms, {100 * cpu / looks * REFRESH_HZ:.2f} % of one CPU at {REFRESH_HZ:g} Hz"
    )
