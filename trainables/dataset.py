"""The data of a study, made once: read or generated, split without overlap, formatted and tokenised.

Everything a user can have got wrong in a file is found while planning, and said with file and line. The tokens
follow from the base model's tokenizer, so the artefact belongs to that base model.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables import tasks
from trainables.base import Context, InputError, Metrics, Planner, Progress, Scalar, Trainable
from trainables.checkpoint_files import read_json
from trainables.data import generated, sources, splitting
from trainables.data.config import NO_TEMPLATE, DatasetConfig, kind_of
from trainables.data.records import READERS, read_records

if TYPE_CHECKING:
    from trainables.data.formats import Sample
    from trainables.data.tokens import Fitted, Item, Renderer

SMALL = 200
"""Below this many records a tenth is too few to test on: folds are recommended."""


def pin(config: DatasetConfig, planner: Planner) -> DatasetConfig:
    """Return the config with its source made absolute and its content found; raises InputError if there is none."""
    here = Path(os.path.normpath(planner.directory() / Path(config.source).expanduser()))
    if kind_of(config) == "file" or here.is_file():
        _check_file(here)
        return config.model_copy(update={"source": str(here), "pinned": planner.fingerprint(here)})
    if kind_of(config) == "generated":
        _check_task(config.source, here)
        return config.model_copy(update={"pinned": generated.version()})
    from trainables.base_models import hub

    if not hub.IDENTIFIER.fullmatch(config.source):
        raise InputError(f"no data {config.source!r}: no file {here}, and no hub id (org/name)")
    return config.model_copy(update={"pinned": hub.resolve(config.source, config.revision, kind="dataset")})


def _check_file(path: Path) -> None:
    if path.is_file() and path.suffix.lower() in READERS:
        return
    read_records(path)  # says what is wrong with it


def _check_task(name: str, here: Path) -> None:
    if name not in generated.tasks():
        near = difflib.get_close_matches(name, generated.tasks(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"no data {name!r}: no file {here} and no reasoning-gym task of that name.{hint} "
            f"Give a file ({', '.join(READERS)}), a hub id (org/name) or a task such as chain_sum"
        )


def check(config: DatasetConfig, inputs: Mapping[str, Path]) -> None:
    """Raise InputError for whatever is wrong with the records, their fields, the split or the task."""
    if config.task is not None:
        tasks.find(config.task)
    kind = kind_of(config)
    if kind == "generated":
        _check_task(config.source, Path(config.source))
        generated.check_parameters(config.source, config.generator)
        _check_counts(config)
    elif kind == "file":
        _, samples = sources.read_file(config)
        sources.split(config, splitting.without_duplicates(samples))
    if "base_model" in inputs:
        _check_model(config, inputs["base_model"])


def _check_counts(config: DatasetConfig) -> None:
    """Raise InputError where so many generated items cannot be split as asked; those of a file are split at once."""
    test = config.test if config.folds is None else math.ceil(config.items / config.folds)
    wanted = sum(splitting.count_of(share, config.items) for share in (config.validation, test))
    if config.folds is not None and config.folds > config.items:
        raise InputError(f"dataset.folds={config.folds} but there are only {config.items} items: lower it")
    if wanted >= config.items:
        name = "test" if config.folds is None else f"one of {config.folds} folds"
        raise InputError(
            f"validation + {name} are {wanted} of {config.items} items: lower them, or raise dataset.items"
        )


def _check_model(config: DatasetConfig, folder: Path) -> None:
    limit = model_limit(folder)
    if limit is not None and (config.max_length or 0) > limit:
        raise InputError(
            f"dataset.max_length={config.max_length} is more than the base model can take: {limit} at most"
        )
    if config.chat_template and not _has_chat_template(folder):
        raise InputError(NO_TEMPLATE)


def _has_chat_template(folder: Path) -> bool:
    files = [folder / "chat_template.jinja", folder / "chat_template.json", folder / "tokenizer_config.json"]
    if any(path.is_file() for path in files[:2]):
        return True
    return files[2].is_file() and "chat_template" in read_json(files[2])


def model_limit(folder: Path) -> int | None:
    """Return the number of positions of the model in `folder`, or None where its config does not say."""
    config = read_json(folder / "config.json")
    config = config.get("text_config", config)
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    return None if limit is None else int(limit)


def count_records(config: DatasetConfig) -> int | None:
    """Return how many distinct records there will be, or None where only the hub knows."""
    kind = kind_of(config)
    if kind == "file":
        return len(splitting.without_duplicates(sources.read_file(config)[1]))
    return config.items if kind == "generated" else None


def recommend(config: DatasetConfig) -> list[str]:
    """Return what `plan` should advise about this data, one line each."""
    count = count_records(config)
    if count is None or count >= SMALL or config.folds is not None:
        return []
    tested = splitting.count_of(config.test, count)
    return [
        f"{count} records leave {tested} to test on: below {SMALL} use folds, so that every record is tested once "
        f"({fold_options(5)})"
    ]


def fold_options(folds: int) -> str:
    """Return the options that test every record once, in so many folds."""
    return f"--set dataset.folds={folds} --axis dataset.fold={','.join(map(str, range(folds)))}"


def run(config: DatasetConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Read, split, tokenise and write; what was cut and dropped goes into log, metrics and `dataset.json`."""
    from trainables.base_models.libraries import quieten

    quieten()
    base = context.inputs["base_model"]
    _check_model(config, base)
    yield Progress(0, 3)
    format_name, read = sources.read(config)
    samples = splitting.without_duplicates(read)
    task, reason = sources.choose_task(config, format_name, samples)
    sides = sources.split(config, samples)
    metrics: dict[str, Scalar] = {"records": len(read), "duplicates": len(read) - len(samples), "task": task.name}
    context.log(f"{len(read)} records, {metrics['duplicates']} duplicates dropped; task {task.name}: {reason}")
    yield Progress(1, 3)
    renderer, maximum = open_renderer(config, base)
    metrics["max_length"] = maximum
    counts: dict[str, dict[str, Scalar]] = {}
    for name, side in vars(sides).items():
        fitted, left = tokenised(config, renderer, side, format_name, maximum)
        counts[name] = _written(context, name, fitted, len(side), left)
    yield Progress(2, 3)
    facts = {**metrics, "task_reason": reason, "format": format_name, "splits": counts, **_facts(config, renderer)}
    (context.output / "dataset.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    yield Progress(3, 3)
    return {**metrics, **_metrics(counts)}


def _facts(config: DatasetConfig, renderer: Renderer) -> dict[str, Any]:
    """Return what a reader of the tokens must know: where they come from, and the tokens that pad and end them."""
    return {
        "source": Path(config.source).name if kind_of(config) == "file" else config.source,
        "content": config.pinned,
        "folds": config.folds,
        "fold": None if config.folds is None else config.fold,
        **({} if config.part == "all" else {"part": config.part}),
        "completion_only": config.completion_only,
        "chat_template": config.chat_template,
        "pad_id": renderer.pad_id,
        "eos_id": renderer.eos_id,
        "vocabulary": len(renderer.tokenizer),
    }


def open_renderer(config: DatasetConfig, base: Path) -> tuple[Renderer, int]:
    """Return what turns samples into the tokens of the base model, and the length of the longest item it can take."""
    from trainables.base_models.folder import load_tokenizer, trusts_remote_code
    from trainables.data.tokens import Renderer

    tokenizer = load_tokenizer(base, trust_remote_code=trusts_remote_code(base))
    renderer = Renderer(tokenizer, chat_template=config.chat_template, system=config.system, separator=config.separator)
    return renderer, config.max_length or model_limit(base) or int(tokenizer.model_max_length)


def tokenised(
    config: DatasetConfig, renderer: Renderer, samples: Sequence[Sample], format_name: str, maximum: int
) -> tuple[Fitted, int]:
    """Return the items that samples make, and how many tokens of plain text were too few for a last block."""
    from trainables.data.tokens import fit

    if format_name == "text":
        items, left = renderer.blocks(samples, min(config.block_length, maximum))
    else:
        items, left = renderer.items(samples, completion_only=config.completion_only), 0
    return fit(items, maximum, config.too_long), left


def _written(context: Context, name: str, fitted: Fitted, records: int, left: int) -> dict[str, Scalar]:
    """Write one split; return its counts, and log what it lost."""
    from trainables.training.examples import save_examples

    if not fitted.items:
        lost = (
            f"the longest has {fitted.longest} tokens: raise dataset.max_length"
            if fitted.longest
            else (f"{records} texts hold {left} tokens: lower dataset.block_length or give more text")
        )
        raise InputError(f"nothing of {name} is left; {lost}")
    examples = [item.example for item in fitted.items]
    save_examples(context.output, name, examples, (_line(name, i, item) for i, item in enumerate(fitted.items)))
    if fitted.cut or fitted.dropped or left:
        context.log(f"{name}: {fitted.cut} cut, {fitted.dropped} dropped as too long, {left} tokens of text left over")
    return {
        "records": records,
        "items": len(examples),
        "cut": fitted.cut,
        "dropped": fitted.dropped,
        "longest": fitted.longest,
        "tokens": sum(len(example.input_ids) for example in examples),
        "completion_tokens": sum(example.completion_tokens for example in examples),
        "text_tokens_left": left,
    }


def _line(name: str, index: int, item: Item) -> dict[str, Any]:
    sample = item.sample
    # A question's id is its content's, so that the same one is recognised in any fold or split; a block's is its place.
    content = hashlib.sha256(f"{sample.prompt}\0{sample.completion}".encode()).hexdigest()[:12]
    line: dict[str, Any] = {
        "id": content if item.prompt else f"{name}-{index}",
        "prompt": item.prompt,
        "completion": sample.completion,
    }
    if sample.answer:
        line["answer"] = sample.answer
    if sample.metadata:
        line["metadata"] = dict(sample.metadata)
    return line


def _metrics(counts: Mapping[str, Mapping[str, Scalar]]) -> dict[str, Scalar]:
    """Return the counts of all splits as flat metrics: `train_items`, ..., and `cut` and `dropped` over all."""

    def total(name: str) -> int:
        return sum(int(count[name] or 0) for count in counts.values())

    items = {f"{name}_items": count["items"] for name, count in counts.items()}
    sums = {name: total(name) for name in ("cut", "dropped", "tokens", "completion_tokens")}
    return {**items, **sums, "longest": max(int(count["longest"] or 0) for count in counts.values())}


TRAINABLE = Trainable(
    name="dataset",
    version=1,
    config=DatasetConfig,
    run=run,
    roles=("base_model",),
    pin=pin,
    check=check,
    cost_s=lambda config: 5.0,
    plugins=lambda config: ("tasks",),
    prepares=True,
)
