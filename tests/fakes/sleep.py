"""Sleeps for as long as it costs, in steps, or until others have done something; notes what its process was given."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from pathlib import Path

from tests.fakes import ROLES, FakeConfig, sign
from trainables.base import Context, Metrics, Progress, Stopped, Trainable

PATIENCE_S = 200.0


class SleepConfig(FakeConfig):
    """How long, in how many steps; it does not end before `awaited` paths below `folder` match `awaits`."""

    seconds: float = 0.1
    steps: int = 4
    folder: str = ""
    awaits: str = ""
    awaited: int = 0


def run(config: SleepConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Sleep; can be stopped between two steps, and starts again from the beginning."""
    sign(config, context.run_id)
    until = time.time()
    for step in range(1, config.steps + 1):
        until += config.seconds / config.steps
        time.sleep(max(0.0, until - time.time()))
        yield Progress(step, config.steps)
        if context.stop_requested():
            raise Stopped
    if config.awaits:
        wait_for(config)
    context.cache["runs"] = context.cache.get("runs", 0) + 1
    return {
        "seconds": config.seconds,
        "runs_in_this_process": context.cache["runs"],
        "pid": os.getpid(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def wait_for(config: SleepConfig) -> None:
    """Wait for what others do, not for ever: whoever holds them up shall fail a test, not hang it."""
    until = time.monotonic() + PATIENCE_S
    while len(list(Path(config.folder).glob(config.awaits))) < config.awaited and time.monotonic() < until:
        time.sleep(0.05)


TRAINABLE = Trainable("sleep", 1, SleepConfig, run, roles=ROLES, cost_s=lambda config: config.seconds)
