"""A base model that is a name."""

from __future__ import annotations

from collections.abc import Generator

from trainables.base import Config, Context, Metrics, Progress, Trainable


class BaseModelConfig(Config):
    source: str = "fake"


def run(config: BaseModelConfig, context: Context) -> Generator[Progress, None, Metrics]:
    yield Progress(1, 1)
    return {"parameters": 134515008}


TRAINABLE = Trainable(name="base_model", version=1, config=BaseModelConfig, run=run, prepares=True)
