"""Sleeps for as long as it costs, in steps, and notes what its process was given."""

from __future__ import annotations

import os
import time
from collections.abc import Generator

from tests.fakes import ROLES, FakeConfig, sign
from trainables.base import Context, Metrics, Progress, Stopped, Trainable


class SleepConfig(FakeConfig):
    """How long, in how many steps, and how long after the last."""

    seconds: float = 0.1
    steps: int = 4
    linger_s: float = 0.0


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
    time.sleep(config.linger_s)
    context.cache["runs"] = context.cache.get("runs", 0) + 1
    return {
        "seconds": config.seconds,
        "runs_in_this_process": context.cache["runs"],
        "pid": os.getpid(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


TRAINABLE = Trainable("sleep", 1, SleepConfig, run, roles=ROLES, cost_s=lambda config: config.seconds)
