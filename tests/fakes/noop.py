"""Does nothing, once."""

from __future__ import annotations

from collections.abc import Generator

from tests.fakes import ROLES, FakeConfig, needs, sign
from trainables.base import Context, Metrics, Progress, Trainable


def run(config: FakeConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Sign, and be done."""
    sign(config, context.run_id)
    yield Progress(1, 1)
    return {"value": config.seed}


TRAINABLE = Trainable("noop", 1, FakeConfig, run, roles=ROLES, needs=needs, cost_s=lambda config: 0.01)
