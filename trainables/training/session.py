"""A training run from its inputs to its summary: all that teachers and students have in common.

A trainable opens a session, makes of the base model what it trains, and gives that to `fit` with its way to save it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from trainables.base import Context, Metrics, Progress
from trainables.training.config import TrainingConfig
from trainables.training.engine import Engine
from trainables.training.engines import loading_device, make_engine
from trainables.training.loop import load_data, train
from trainables.training.models import device_of, load_model, save_activation_memory, set_threads
from trainables.training.results import final_metrics, write_summary
from trainables.training.workers import Workers, join

Save: TypeAlias = Callable[[Engine, Path], None]
"""Writes what the engine has trained into a folder; called in every worker, of which the first one writes."""


@dataclass(frozen=True)
class Session:
    """The workers of a run, and the base model as each of them has loaded it."""

    config: TrainingConfig
    context: Context
    workers: Workers
    base: Any

    def fit(self, model: Any, parameters: tuple[int, int], save: Save) -> Generator[Progress, None, Metrics]:
        """Train `model` to the last step and return the final metrics; raises what `train` raises.

        It is saved in the output, and in `best/` below it as it was at its best, if that was not at the last step.
        `parameters` are how many are trained and how many there are. From here on the model may lie in pieces.
        """
        config, context, workers = self.config, self.context, self.workers
        data = load_data(context, config)
        steps = config.total_steps(len(data.train))
        engine = make_engine(model, config, steps=steps, place=context.place, workers=workers)
        trained = yield from train(engine, data, config, context)
        save(engine, context.output)
        if trained.has_other_best:
            engine.load_weights(trained.checkpoints.best)
            save(engine, context.output / "best")
        metrics = final_metrics(trained, *parameters)
        if workers.is_first:
            write_summary(context.output, config, metrics)
        return metrics


@contextlib.contextmanager
def open_session(config: TrainingConfig, context: Context) -> Iterator[Session]:
    """Join the run's workers on the device of the place, and load the base model there; part from them at the end."""
    set_threads(context.place)
    device = device_of(context.place)
    with join(context, device) as workers:
        where = loading_device(context.place, device)
        base = load_model(context.inputs["base_model"], precision=config.precision, device=where)
        if context.place.gradient_checkpointing:
            save_activation_memory(base)
        yield Session(config, context, workers, base)
