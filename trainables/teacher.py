"""The teacher: the base model, fine-tuned with all its weights, or with those of its linear layers only.

The base may be another teacher's artefact, which is trained on from its weights, with a new optimiser and schedule.

It is saved in fp32 whatever the precision it was trained in: rounded to bf16, most weights come back unchanged
and the rounding noise outweighs what training changed, so that factors of the change would be factors of noise.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from trainables.base import Context, Metrics, Progress, Trainable
from trainables.training.config import TrainingConfig
from trainables.training.precision import pin_precision

if TYPE_CHECKING:
    from trainables.training.engine import Engine

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
NOT_COPIED = ("record.json", "history.csv", "log.txt", "training.json", "config.json", "generation_config.json")


class TeacherConfig(TrainingConfig):
    """A training run, and which of the model's weights it trains."""

    parameters: Literal["all", "linears"] = Field(
        "all", description="linears: only the weights of the blocks' linear layers, all that a LoRA can follow"
    )


def run(config: TeacherConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Fine-tune the base model; leave a Hugging Face folder in fp32, and the best one in `best/` if it is another."""
    from trainables.training.results import count_parameters
    from trainables.training.session import open_session

    with open_session(config, context) as session:
        model = session.base
        if config.parameters == "linears":
            train_linears_only(model)
        trainable, total = count_parameters(model)
        device = session.workers.device
        context.log(f"trains {trainable:,d} of {total:,d} parameters in {config.precision} on {device}")
        save = partial(save_model, model, context.inputs["base_model"])
        return (yield from session.fit(model, (trainable, total), save))


def train_linears_only(model: Any) -> None:
    """Freeze all but the weights of the linear layers (Linear and Conv1D) inside the model's blocks."""
    from trainables.training.models import block_linears

    model.requires_grad_(False)
    for module in block_linears(model).values():
        module.weight.requires_grad_(True)


def save_model(model: Any, base: Path, engine: Engine, folder: Path) -> None:
    """Write a model as a Hugging Face folder; what goes with the weights (the tokenizer) is copied from the base.

    All workers give their pieces of the weights, and the first one writes.
    """
    weights = engine.all_weights()
    if engine.workers.is_first:
        write_model(model, weights, base, folder)


def write_model(model: Any, weights: Mapping[str, Any], base: Path, folder: Path) -> None:
    """Write a model with these weights as a Hugging Face folder, with what goes with them copied from the base."""
    from trainables.training.models import quiet

    with quiet():
        model.save_pretrained(folder, state_dict=weights)
    copy_companions(base, folder, NOT_COPIED)


def copy_companions(base: Path, folder: Path, left: Collection[str]) -> None:
    """Copy the base's files that are no weights (its tokenizer, mostly), but for those of the names `left`."""
    left_out = {path for pattern in WEIGHTS for path in base.glob(pattern)}
    for path in sorted(base.iterdir()):
        if path.is_file() and path not in left_out and path.name not in left:
            shutil.copyfile(path, folder / path.name)


def cost_s(config: TeacherConfig) -> float:
    """Guess core-seconds: 0.25 s for each of a step's sequences, of some fifty tokens, in a model of 135 million."""
    return 10 + config.steps * config.batch_size * 0.25


TRAINABLE = Trainable(
    name="teacher",
    version=1,
    config=TeacherConfig,
    run=run,
    roles=("base_model", "dataset"),
    pin=pin_precision,
    cost_s=cost_s,
)
