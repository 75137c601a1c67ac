"""Fails at its second step, in one of the ways in which trainables do."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

from tests.fakes import ROLES, FakeConfig, needs, sign
from trainables.base import Context, Diverged, Metrics, Progress, Trainable


class FailConfig(FakeConfig):
    """In which way."""

    how: Literal["error", "memory", "diverge"] = "error"


def run(config: FailConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Get as far as the first step."""
    sign(config, context.run_id)
    yield Progress(1, 2, {"loss": 2.0})
    context.log("about to fail")
    if config.how == "memory":
        raise MemoryError("asked for too much")
    if config.how == "diverge":
        raise Diverged("loss is nan at step 2")
    raise ValueError("there is no step 2\nand this line is only in the log")


TRAINABLE = Trainable("fail", 1, FailConfig, run, roles=ROLES, needs=needs)
