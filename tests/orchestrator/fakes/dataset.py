"""A dataset that is counts; `fold` names one split of several."""

from __future__ import annotations

from collections.abc import Generator

from trainables.base import Config, Context, Metrics, Progress, Trainable


class DatasetConfig(Config):
    source: str = "chain_sum"
    fold: int = 0
    validation: int = 48
    test: int = 100


def run(config: DatasetConfig, context: Context) -> Generator[Progress, None, Metrics]:
    yield Progress(1, 1)
    return {"train_items": 1000, "validation_items": config.validation, "test_items": config.test}


TRAINABLE = Trainable(name="dataset", version=1, config=DatasetConfig, run=run, roles=("base_model",), prepares=True)
