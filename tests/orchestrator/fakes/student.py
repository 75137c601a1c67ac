"""A student whose end depends on init, rank and seed by a known rule; `fate` makes it end otherwise."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

from tests.orchestrator.fakes.curves import curve, generator, summary
from tests.orchestrator.fakes.teacher import BASE_LOSS, PARAMETERS
from trainables.base import Config, Context, Diverged, Metrics, Progress, Stopped, Trainable


class StudentConfig(Config):
    init: str = "random"
    rank: int = 8
    seed: int = 1
    steps: int = 20
    eval_every: int = 5
    learning_rate: float = 1e-3
    batch_size: int = 8
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    effect: float = 0.2
    noise: float = 0.03
    per_step: float = 0.0
    fate: Literal["done", "oom", "failed", "diverged"] = "done"


def ends_at(config: StudentConfig) -> float:
    """Return the final loss: arms share a seed's luck, `effect` is what the SVD gains, `per_step` what all do."""
    luck = generator("luck", config.seed, config.rank).gauss(0, config.noise)
    own = generator("own", config.init, config.seed, config.rank).gauss(0, config.noise / 2)
    gain = config.effect if config.init == "svd" else 0.0
    return 1.12 + 0.1 / config.rank + luck + own - gain - config.per_step * config.steps


def run(config: StudentConfig, context: Context) -> Generator[Progress, None, Metrics]:
    start = 0.94 + 0.12 / config.rank if config.init == "svd" else BASE_LOSS
    end = ends_at(config)
    trainable = 305472 * config.rank
    for progress in curve(start, end, config.steps, config.eval_every, generator("student", context.run_id)):
        if progress.step > config.steps // 2 and config.fate != "done":
            _meet(config.fate)
        if context.stop_requested():
            raise Stopped
        yield progress
    return summary(start, end, config.steps, trainable, PARAMETERS + trainable)


def _meet(fate: str) -> None:
    if fate == "oom":
        raise MemoryError("no memory left for 3.2 GiB")
    if fate == "diverged":
        raise Diverged("loss is nan at step 11")
    raise RuntimeError("the disk went away")


def needs(config: StudentConfig) -> tuple[str, ...]:
    return ("base_model", "dataset", "svd_export") if config.init == "svd" else ("base_model", "dataset")


TRAINABLE = Trainable(
    name="student",
    version=1,
    config=StudentConfig,
    run=run,
    roles=("base_model", "dataset", "svd_export"),
    needs=needs,
)
