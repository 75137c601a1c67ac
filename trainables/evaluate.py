"""Tests a finished base model, teacher, truncated teacher or student: loss on held-out data, and answers checked.

Two outcomes beside these are measured where the config asks for them: what the model forgot (`general_text`), and
where its weights are, seen from base and teacher (`geometry`), which reads the teacher as one more input.

A change of low rank (a student's adapter, a truncated teacher) stays beside the weights, as it was trained, and is
not merged: dW is some thousandths of W, and W + dW in bf16 loses much of it. (SmolLM2, rank 16: the loss in bf16 was
.006 off that in fp32 beside the weights and .024 merged; in fp32 the two differ by 6e-7. Merged is 17 % faster.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from trainables import general_text, tasks
from trainables.answers import Answer, Decoding, checked, generate, write_answers, write_items
from trainables.base import Config, Context, InputError, Metrics, Planner, Progress, Scalar, Stopped, Trainable
from trainables.checkpoint_files import difference, read_headers, read_json
from trainables.targets import ALL_LINEAR, check_targets, linear_shapes
from trainables.training.config import Precision
from trainables.training.precision import auto_precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainables.geometry.layers import LayerGeometry, Opened
    from trainables.linalg.factors import Factors
    from trainables.training.examples import Example
    from trainables.training.item_losses import ItemLoss

ADAPTER = "adapter/adapter_config.json"
FACTORS = "factors.safetensors"
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


@dataclass(frozen=True)
class Data:
    """The items to test on, as tokens and as text, with the dataset's facts and the tokenizer."""

    examples: Sequence[Example]
    items: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    tokenizer: Any

    @property
    def task(self) -> tasks.Task:
        """Who judges the answers."""
        return tasks.find(str(self.facts["task"]))

    @property
    def is_completion_only(self) -> bool:
        """Whether the loss leaves the prompts out."""
        return all(example.prompt_length for example in self.examples)

    @functools.cached_property
    def prompts(self) -> list[list[int]]:
        """The prompts' tokens; empty for plain text."""
        if self.is_completion_only:
            return [example.input_ids[: example.prompt_length] for example in self.examples]
        prompts = [str(item["prompt"]) for item in self.items]
        return list(self.tokenizer(prompts, add_special_tokens=False)["input_ids"])

    @property
    def longest_completion(self) -> int:
        """Tokens of the longest reference of the split, with the token that ends it."""
        return max(len(example.input_ids) - example.prompt_length for example in self.examples)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: the dataset's end of turn, and the tokenizer's end of text."""
        return tuple(sorted({int(self.facts["eos_id"]), int(self.tokenizer.eos_token_id)}))


def pin(config: EvaluateConfig, planner: Planner) -> EvaluateConfig:
    """Return the config with `auto` replaced by this machine's precision."""
    return config.model_copy(update={"precision": auto_precision()[0]}) if config.precision == "auto" else config


def check(config: EvaluateConfig, inputs: Mapping[str, Path]) -> None:
    """Raise InputError for a rank that no layer has, or one that does not go with the subject."""
    if config.rank is not None and "base_model" in inputs:
        shapes = linear_shapes(read_headers(inputs["base_model"])).values()
        largest = max((min(shape) for shape in shapes), default=0)
        if config.rank > largest:
            raise InputError(f"rank {config.rank} is above what any layer of the base model has; use at most {largest}")
    if "subject" in inputs:
        _check_subject(config, inputs["subject"])
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


def _check_subject(config: EvaluateConfig, subject: Path) -> None:
    is_export = (subject / FACTORS).is_file()
    if is_export and config.rank is None:
        raise InputError(f"evaluate.rank is missing: a truncated teacher ({subject.name}) needs the rank to cut it at")
    if not is_export and config.rank is not None:
        raise InputError(
            f"evaluate.rank={config.rank} is for a truncated teacher; {subject.name} is none, leave it out"
        )
    if is_export:
        exported = int(read_json(subject / "export.json")["rank"])
        if config.rank is not None and config.rank > exported:
            raise InputError(f"rank {config.rank} is above the {exported} that {subject.name} was exported at")


def run(config: EvaluateConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Measure loss, perplexity and token accuracy, generate and check the answers, then what else is asked for."""
    from trainables.training.models import device_of, set_threads

    check(config, context.inputs)
    set_threads(context.place)
    data = load_data(config, context)
    places = compared(config, context) if config.geometry else None
    model, metrics = load_subject(config, context.inputs, device_of(context.place))
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


def load_data(config: EvaluateConfig, context: Context) -> Data:
    """Return the split's items, their prompts as tokens, and the tokenizer; a warm worker keeps them."""
    from trainables.base_models.folder import load_tokenizer, trusts_remote_code
    from trainables.training.examples import load_examples, load_facts, load_items
    from trainables.training.models import quiet

    base, folder = context.inputs["base_model"], context.inputs["dataset"]
    key = f"evaluate {base} {folder} {config.split} {config.items}"
    if key not in context.cache:
        examples, items = load_examples(folder, config.split), load_items(folder, config.split)
        with quiet():
            tokenizer = load_tokenizer(base, trust_remote_code=trusts_remote_code(base))
        context.cache[key] = Data(examples[: config.items], items[: config.items], load_facts(folder), tokenizer)
    data: Data = context.cache[key]
    return data


def load_subject(
    config: EvaluateConfig, inputs: Mapping[str, Path], device: torch.device
) -> tuple[Any, dict[str, Scalar]]:
    """Return the model to test, frozen, and what is known of it beforehand; its files say what kind it is.

    `adapter/` makes a student, `factors.safetensors` a truncated teacher, `config.json` a whole model.
    """
    from trainables.training.models import load_model, precast_frozen

    subject = inputs["subject"]
    metrics: dict[str, Scalar] = {}
    is_whole = not (subject / ADAPTER).is_file() and not (subject / FACTORS).is_file()
    model = load_model(subject if is_whole else inputs["base_model"], precision=config.precision, device=device)
    if (subject / ADAPTER).is_file():
        model = _with_adapter(model, subject / "adapter")
    elif not is_whole:
        assert config.rank is not None
        metrics["energy"] = _add_truncated(model, subject, config.rank)
    model.requires_grad_(False)
    precast_frozen(model, config.precision)
    return model.eval(), metrics


def _with_adapter(base: Any, adapter: Path) -> Any:
    from peft import PeftModel

    from trainables.training.models import quiet

    with quiet():
        wrapped = PeftModel.from_pretrained(base, adapter, torch_device=str(base.device))
    return wrapped.get_base_model()


def _add_truncated(model: Any, export: Path, rank: int) -> float:
    """Add the leading `rank` triplets of every factorised layer beside its weight; return the energy they keep."""
    from trainables.linalg.factors import load_factors

    kept = 0.0
    modules = dict(model.named_modules())
    for name, factors in load_factors(export).items():
        few = factors.truncated(min(rank, factors.rank))
        kept += float(few.s.double().square().sum())
        modules[name].register_forward_hook(_low_rank(few, model.device))
    total = float(read_json(export / "export.json")["delta_norm"]) ** 2
    return min(1.0, kept / total) if total else 1.0


def _low_rank(factors: Factors, device: torch.device) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
    """Return a hook that adds U diag(S) V^T x to a linear layer's output, in the order in which LoRA multiplies."""
    down, up = factors.vt.T.to(device), (factors.u * factors.s).T.to(device)

    def add(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (inputs[0] @ down) @ up

    return add


@dataclass(frozen=True)
class Measurement:
    """A model on data.

    Nothing is yielded while torch's modes are on: they belong to the thread, and a yield hands it to somebody else.
    """

    model: Any
    data: Data
    precision: Precision
    batch_size: int

    def losses(self, examples: Sequence[Example]) -> list[ItemLoss]:
        """Return the loss of every example."""
        from trainables.training.item_losses import item_losses

        return item_losses(
            self.model,
            examples,
            batch_size=self.batch_size,
            precision=self.precision,
            device=self.model.device,
            pad_id=int(self.data.facts["pad_id"]),
        )

    def loss(self, items: Sequence[ItemLoss]) -> dict[str, float]:
        """Return loss (nats per completion token), perplexity and token accuracy over all items."""
        from trainables.training.item_losses import pooled

        found = pooled(items)
        return {"loss": found.loss, "perplexity": found.perplexity, "token_accuracy": found.token_accuracy}

    def answers(self, max_new_tokens: int) -> Iterator[list[Answer]]:
        """Yield the checked answers, batch by batch, short prompts first."""
        from trainables.training.prompt_cache import common_prefix, fill_cache

        data = self.data
        with self._mode():
            cache = fill_cache(self.model, common_prefix(data.prompts))
        decoding = Decoding(max_new_tokens, data.end_ids, int(data.facts["pad_id"]))
        by_length = sorted(range(len(data.items)), key=lambda index: len(data.prompts[index]))
        for start in range(0, len(by_length), self.batch_size):
            batch = by_length[start : start + self.batch_size]
            with self._mode():
                new = generate(self.model, [data.prompts[index] for index in batch], decoding, cache)
            texts = [data.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in new]
            yield [checked(data.task, data.items[index], text) for index, text in zip(batch, texts, strict=True)]

    def _mode(self) -> ExitStack:
        import torch

        from trainables.training.models import autocast, quiet

        stack = ExitStack()
        stack.enter_context(quiet())
        stack.enter_context(torch.inference_mode())
        stack.enter_context(autocast(self.precision, self.model.device))
        return stack


TRAINABLE = Trainable(
    name="evaluate",
    version=2,
    config=EvaluateConfig,
    run=run,
    roles=ROLES,
    needs=needs,
    pin=pin,
    check=check,
    cost_s=lambda config: 10.0,
    sources=(
        "answers.py",
        "tasks",
        "general_text.py",
        "geometry",
        "linalg",
        "training/batches.py",
        "training/evaluation.py",
        "training/forward.py",
        "training/item_losses.py",
        "training/models.py",
        "training/prompt_cache.py",
    ),
)
