"""Tests a finished base model, teacher, truncated teacher or student: loss on held-out data, and answers checked.

Two outcomes beside these are measured where the config asks for them: what the model forgot (`general_text`), and
where its weights are, seen from base and teacher (`geometry`), which reads the teacher as one more input.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from trainables import general_text
from trainables.answers import Answer, write_answers, write_items
from trainables.base import Config, Context, InputError, Metrics, Progress, Scalar, Stopped, Trainable
from trainables.checkpoint_files import difference, read_headers, read_json
from trainables.measurement import Measurement, load_data
from trainables.subject import check_rank, load_subject
from trainables.targets import ALL_LINEAR, check_targets, linear_shapes
from trainables.training.config import Precision
from trainables.training.precision import pin_precision

if TYPE_CHECKING:
    from trainables.geometry.layers import LayerGeometry, Opened

ROLES = ("base_model", "dataset", "subject", "teacher")


class EvaluateConfig(Config):
    """What is measured, and on what."""

    rank: int | None = Field(None, ge=1, description="of a truncated teacher (subject svd_export); none for others")
    split: Literal["validation", "test"] = Field("test", description="the metrics' names begin with it")
    items: int | None = Field(None, ge=1, description="the first so many items; none: all")
    max_new_tokens: int | None = Field(
        None, ge=1, description="longest answer; a longer one is cut, and then judged; default: the longest reference"
    )
    precision: Precision = Field("auto", description="of the arithmetic; weights stay fp32")
    forgetting_window: int | None = Field(
        None, ge=2, description="tokens of a window of general text to measure the loss on; none: not measured"
    )
    geometry: bool = Field(False, description="compare the weights with those of base and teacher (input `teacher`)")
    subspace_rank: int | None = Field(
        None, ge=1, description="directions compared per layer; default: the subject's own rank, 16 of a whole model"
    )
    target_modules: str | list[str] = Field(
        ALL_LINEAR, description="layers whose geometry is compared, changed or not; as PEFT reads it"
    )

    def identity(self) -> dict[str, Any]:
        """Return what decides the result: how geometry is measured only where it is."""
        unused = set() if self.geometry else {"subspace_rank", "target_modules"}
        return {name: value for name, value in super().identity().items() if name not in unused}


def check(config: EvaluateConfig, inputs: Mapping[str, Path]) -> None:
    """Raise InputError for a rank that no layer has, or one that does not go with the subject."""
    if config.rank is not None and "base_model" in inputs:
        shapes = linear_shapes(read_headers(inputs["base_model"])).values()
        largest = max((min(shape) for shape in shapes), default=0)
        if config.rank > largest:
            raise InputError(f"rank {config.rank} is above what any layer of the base model has; use at most {largest}")
    if "subject" in inputs:
        check_rank(config.rank, inputs["subject"])
    if config.forgetting_window is not None:
        _check_forgetting(config.forgetting_window, inputs)
    if config.geometry:
        _check_geometry(config, inputs)


def needs(config: EvaluateConfig) -> tuple[str, ...]:
    """Return the inputs that are read: the teacher only for geometry."""
    return ROLES if config.geometry else ROLES[:-1]


def _check_forgetting(window: int, inputs: Mapping[str, Path]) -> None:
    general_text.text()
    if "base_model" in inputs:
        settings = read_json(inputs["base_model"] / "config.json")
        positions = settings.get("n_positions", settings.get("max_position_embeddings", window))
        if window > positions:
            raise InputError(f"forgetting_window={window} is above the {positions} positions of the base model")
    if "dataset" in inputs:
        general_text.check_unseen(str(read_json(inputs["dataset"] / "dataset.json").get("source", "")))


def _check_geometry(config: EvaluateConfig, inputs: Mapping[str, Path]) -> None:
    if "base_model" not in inputs:
        return
    base = read_headers(inputs["base_model"])
    check_targets(config.target_modules, linear_shapes(base))
    differs = difference(read_headers(inputs["teacher"]), base) if "teacher" in inputs else None
    if differs:
        raise InputError(f"geometry compares with a teacher that is no checkpoint of the base model: {differs}")


def run(config: EvaluateConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Measure loss, perplexity and token accuracy, generate and check the answers, then what else is asked for."""
    from trainables.training.models import device_of, set_threads

    check(config, context.inputs)
    set_threads(context.place)
    data = load_data(context, config.split, config.items)
    places = compared(config, context) if config.geometry else None
    device = device_of(context.place)
    model, metrics = load_subject(context.inputs, rank=config.rank, precision=config.precision, device=device)
    measure = Measurement(model, data, config.precision, context.place.evaluation_batch_size)
    total = 1 + (len(data.prompts) if data.task.check else 0) + (len(places.targets) if places else 0)
    yield Progress(0, total)
    losses = measure.losses(data.examples)
    metrics |= {f"{config.split}_{name}": value for name, value in measure.loss(losses).items()}
    if config.forgetting_window is not None:
        metrics |= forgetting(measure, config.forgetting_window)
    yield Progress(1, total)
    answers: list[Answer] = []
    if data.task.check:
        for batch in measure.answers(config.max_new_tokens or data.longest_completion):
            answers += batch
            yield Progress(1 + len(answers), total)
            if context.stop_requested():
                raise Stopped("an evaluation starts again")
        position = {str(item["id"]): index for index, item in enumerate(data.items)}
        answers.sort(key=lambda answer: position[answer.id])
        write_answers(context.output / "answers.jsonl", answers)
    write_items(context.output / "items.csv", data.items, losses, answers)
    if places is not None:
        metrics |= yield from geometry(places, context, Progress(1 + len(answers), total))
    return {**metrics, **accuracy(config.split, answers), f"{config.split}_items": len(data.items)}


def forgetting(measure: Measurement, window: int) -> dict[str, Scalar]:
    """Return the loss on text that the fine-tuning did not see (nats per token), and of how many windows how long."""
    examples = general_text.windows(measure.data.tokenizer, window)
    found = measure.loss(measure.losses(examples))
    return {
        "forgetting_loss": found["loss"],
        "forgetting_perplexity": found["perplexity"],
        "forgetting_window": window,
        "forgetting_windows": len(examples),
    }


def compared(config: EvaluateConfig, context: Context) -> Opened:
    """Return the checkpoints whose geometry is compared; raises InputError if they do not fit."""
    from trainables.geometry.layers import opened
    from trainables.training.models import device_of

    return opened(
        context.inputs,
        config.target_modules,
        rank=config.subspace_rank,
        cut=config.rank,
        device=device_of(context.place),
        cache=context.cache,
    )


def geometry(
    places: Opened, context: Context, done: Progress
) -> Generator[Progress, None, dict[str, float | int | None]]:
    """Compare layer by layer; leave `geometry.csv` and return the metrics over all layers and by layer type."""
    from trainables.geometry.summary import metrics, write_layers

    found: list[LayerGeometry] = []
    for layer in places.layers():
        found.append(layer)
        yield Progress(done.step + len(found), done.total)
        if context.stop_requested():
            raise Stopped("an evaluation starts again")
    write_layers(context.output, found)
    return {**metrics(found), "subspace_rank": places.rank}


def accuracy(split: str, answers: Sequence[Answer]) -> dict[str, Scalar]:
    """Return the number of right answers and their share; None where the task has no checker."""
    correct = sum(answer.is_correct for answer in answers) if answers else None
    return {f"{split}_correct": correct, f"{split}_accuracy": None if correct is None else correct / len(answers)}


TRAINABLE = Trainable(
    name="evaluate",
    version=2,
    config=EvaluateConfig,
    run=run,
    roles=ROLES,
    needs=needs,
    pin=pin_precision,
    check=check,
    cost_s=lambda config: 10.0,
    plugins=lambda config: ("tasks",),
)
