"""Counts, with a checkpoint at every step; may stop itself the hard way, and goes on from where it was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

from tests.fakes import ROLES, FakeConfig, sign
from trainables.base import Context, Metrics, Progress, Stopped, Trainable


class CountConfig(FakeConfig):
    """How far to count, at what pace, and where to be killed: at step `die_at`, or the next, of the first `deaths`."""

    steps: int = 10
    pause_s: float = 0.0
    die_at: int = 0
    deaths: int = 0


def run(config: CountConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Count from the last checkpoint on; the sum of all numbers says whether one was lost or counted twice."""
    attempt = sign(config, context.run_id)
    start, total = 0, 0
    if context.resume_from is not None:
        start, total = map(int, (context.resume_from / "state.txt").read_text().split())
    for step in range(start + 1, config.steps + 1):
        time.sleep(config.pause_s)
        total += step
        yield Progress(step, config.steps, {"total": float(total)})
        save(context.checkpoints / f"step-{step}", step, total)
        if step == max(config.die_at, start + 1) and attempt <= config.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if context.stop_requested():
            raise Stopped
    (context.output / "total.txt").write_text(str(total))
    return {"total": total, "started_at": start}


def save(folder: Path, step: int, total: int) -> None:
    """Write a checkpoint that is there whole or not at all."""
    beside = folder.with_name(f".{folder.name}")
    beside.mkdir()
    (beside / "state.txt").write_text(f"{step} {total}")
    beside.rename(folder)


def wait_for(folder: Path) -> None:
    """Wait until a checkpoint is there, so that who dies next dies after it."""
    while not folder.exists():
        time.sleep(0.01)


TRAINABLE = Trainable("count", 1, CountConfig, run, roles=ROLES)
