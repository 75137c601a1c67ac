"""Measures what training measures, without training: losses that fall, tokens, at any pace; can be stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Generator

from tests.fakes import ROLES, FakeConfig, needs
from trainables.base import Context, Metrics, Progress, Stopped, Trainable


class LearnConfig(FakeConfig):
    """How many steps, the pause after each, and whether something is printed all the while, as libraries do."""

    steps: int = 20
    pause_s: float = 0.0
    prints: bool = False


def run(config: LearnConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Go through all steps from the first on; a held-out loss every fifth."""
    loss = math.nan
    for step in range(config.steps + 1):
        loss = 1.0 + 2.0 * math.exp(-step / 6) + 0.1 * math.sin(7 * step + config.seed)
        metrics = {"loss": loss, "tokens": 32.0 * step} if step else {}
        if step % 5 == 0:
            metrics |= {"eval_loss": loss + 0.1}
        context.log(f"step {step}")
        if config.prints:
            print(f"printed at step {step}")
        yield Progress(step, config.steps, metrics)
        if context.stop_requested():
            raise Stopped
        time.sleep(config.pause_s)
    return {"final_eval_loss": loss + 0.1}


TRAINABLE = Trainable("learn", 1, LearnConfig, run, roles=ROLES, needs=needs)
"""Learns nothing, visibly."""
