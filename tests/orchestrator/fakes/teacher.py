"""A teacher that goes from 2.99 to about .94, or wherever its config says it ends."""

from __future__ import annotations

from collections.abc import Generator

from tests.orchestrator.fakes.curves import curve, generator, summary
from trainables.base import Config, Context, Metrics, Progress, Trainable

BASE_LOSS = 2.991
PARAMETERS = 134515008


class TeacherConfig(Config):
    steps: int = 60
    learning_rate: float = 3e-5
    batch_size: int = 8
    eval_every: int = 10
    seed: int = 1
    ends_at: float = 0.939


def run(config: TeacherConfig, context: Context) -> Generator[Progress, None, Metrics]:
    yield from curve(BASE_LOSS, config.ends_at, config.steps, config.eval_every, generator("teacher", config.seed))
    return summary(BASE_LOSS, config.ends_at, config.steps, PARAMETERS, PARAMETERS)


TRAINABLE = Trainable(name="teacher", version=1, config=TeacherConfig, run=run, roles=("base_model", "dataset"))
