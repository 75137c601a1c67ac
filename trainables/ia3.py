"""A teacher that learns one factor per channel, (IA)^3, merged into the weights: for those without a teacher's memory.

PEFT's implementation (Liu et al. 2022, arXiv 2205.05638) trains vectors l, and merging scales the rows of a layer's
weight by l, or its columns where the layer is a feed-forward network's: dW = W (l - 1), row by row. So dW has the rank
of W, however few numbers were trained, and its singular vectors are much like those of W: it is a teacher whose change
no LoRA of low rank holds. What is saved is a whole model in fp32, as a teacher's. A layer's bias is scaled with its
rows, and no adapter on weights can follow that.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from trainables.base import Context, Metrics, Progress, Trainable
from trainables.teacher import write_model
from trainables.training.config import TrainingConfig
from trainables.training.precision import pin_precision

if TYPE_CHECKING:
    from trainables.training.engine import Engine


class IA3Config(TrainingConfig):
    """A training run, and which layers' channels are scaled."""

    learning_rate: float = Field(3e-3, gt=0, description="peak of the schedule; default: that of the paper")
    target_modules: str | list[str] | None = Field(
        None, description="as PEFT reads it; default: PEFT's choice for the model's type (keys, values, MLP)"
    )
    feedforward_modules: list[str] | None = Field(
        None, description="those of them whose input is scaled instead of their output; default: PEFT's choice"
    )

    @field_validator("weight_decay")
    @classmethod
    def _decays_nothing(cls, value: float) -> float:
        if value:
            raise ValueError("decay would draw the factors to 0, where nothing changes at 1; leave it at 0")
        return value


def check(config: IA3Config, inputs: Mapping[str, Path]) -> None:
    """Raise InputError if the targets match no layer of the base model."""
    if "base_model" in inputs and config.target_modules is not None:
        from trainables.checkpoint_files import read_headers
        from trainables.targets import check_targets, linear_shapes

        check_targets(config.target_modules, linear_shapes(read_headers(inputs["base_model"])))


def run(config: IA3Config, context: Context) -> Generator[Progress, None, Metrics]:
    """Train the factors; leave a Hugging Face folder in fp32, and the best one in `best/` if it is another."""
    from trainables.training.models import precast_frozen
    from trainables.training.results import count_parameters
    from trainables.training.session import open_session

    check(config, context.inputs)
    with open_session(config, context) as session:
        model = add_factors(session.base, config).get_base_model()
        trainable, total = count_parameters(model)
        context.log(f"trains {trainable:,d} factors on {total - trainable:,d} parameters in {config.precision}")
        precast_frozen(model, config.precision)
        save = partial(save_merged, config, context.inputs["base_model"])
        return (yield from session.fit(model, (trainable, total), save))


def add_factors(base: Any, config: IA3Config) -> Any:
    """Return the base as a PeftModel whose factors are 1, so that nothing changes at step 0."""
    from peft import IA3Config as PeftIA3Config
    from peft import get_peft_model

    from trainables.training.models import quiet

    factors = PeftIA3Config(
        task_type="CAUSAL_LM", target_modules=config.target_modules, feedforward_modules=config.feedforward_modules
    )
    with quiet():
        return get_peft_model(base, factors)


def save_merged(config: IA3Config, base: Path, engine: Engine, folder: Path) -> None:
    """Write the base with the trained factors merged into it; all workers give their pieces, the first writes.

    The base is read again: in training its weights were cast to the run's precision, and may lie in shards.
    """
    from trainables.training.models import load_model

    weights = engine.trained_weights()
    if engine.workers.is_first:
        model = add_factors(load_model(base), config)
        strange = model.get_base_model().load_state_dict(weights, strict=False).unexpected_keys
        if strange:
            raise RuntimeError(f"the trained factors have no place in the base model, first {strange[0]}")
        whole = model.merge_and_unload()
        write_model(whole, whole.state_dict(), base, folder)


def cost_s(config: IA3Config) -> float:
    """Guess core-seconds: as a student's, 0.15 s for each of a step's sequences in a model of 135 million."""
    return 10 + config.steps * config.batch_size * 0.15


TRAINABLE = Trainable(
    name="ia3",
    version=1,
    config=IA3Config,
    run=run,
    roles=("base_model", "dataset"),
    pin=pin_precision,
    check=check,
    cost_s=cost_s,
)
