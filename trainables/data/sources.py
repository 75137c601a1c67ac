"""The samples of a dataset, from wherever they come: a generated task, a local file, a hub."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from trainables import tasks
from trainables.base import InputError
from trainables.data import formats, generated, splitting
from trainables.data.config import DatasetConfig, kind_of
from trainables.data.formats import Sample
from trainables.data.records import Record, read_records

TRIES = 20
"""Items drawn for every one wanted, before a task is said not to have as many different ones."""


def read(config: DatasetConfig) -> tuple[str, list[Sample]]:
    """Return the format and all samples of the source, duplicates included; raises InputError naming the record."""
    kind = kind_of(config)
    if kind == "generated":
        return "question_answer", generate(config)
    return read_file(config) if kind == "file" else _read_hub(config)


def generate(config: DatasetConfig) -> list[Sample]:
    """Return generated samples up to the last one needed for as many different prompts as the config asks for."""
    samples: list[Sample] = []
    distinct: set[str] = set()
    limit = TRIES * config.items
    for sample in generated.generate(config.source, config.generator, config.seed, limit, completion=config.completion):
        samples.append(sample)
        distinct.add(splitting.key(sample))
        if len(distinct) == config.items:
            return samples
    raise InputError(
        f"{config.source} gave only {len(distinct)} different items in {limit} with these parameters: "
        f"--set dataset.items={len(distinct)} or widen dataset.generator"
    )


def read_file(config: DatasetConfig) -> tuple[str, list[Sample]]:
    """Return the format and the samples of a local file; raises InputError naming file and line."""
    path = Path(config.source)
    if not path.is_file():
        read_records(path)  # says what is wrong with it
    about = path.stat()
    return _samples(config, _records(path, about.st_size, about.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _records(path: Path, size: int, changed: int) -> list[Record]:
    """Return a file's records; planning asks for the same ones for every fold and seed."""
    return read_records(path)


def _read_hub(config: DatasetConfig) -> tuple[str, list[Sample]]:
    import datasets

    datasets.disable_progress_bars()
    names = {"name": config.subset, "split": config.hub_split, "revision": config.pinned}
    try:
        table = datasets.load_dataset(config.source, **names)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"cannot read the hub's dataset {config.source!r} ({reason}): give a local file instead"
        ) from error
    where = f"{config.source} {config.hub_split}"
    return _samples(config, [Record(f"{where} row {number}", row) for number, row in enumerate(table, start=1)])


def _samples(config: DatasetConfig, records: Sequence[Record]) -> tuple[str, list[Sample]]:
    mapped = formats.choose(
        records, config.format, prompt=config.prompt, completion=config.completion, answer=config.answer
    )
    return mapped.format, mapped.samples(records)


def split(config: DatasetConfig, samples: Sequence[Sample]) -> splitting.Split:
    """Return the split that the config asks for; raises InputError if the records are too few for it."""
    sides = _all_of(config, samples)
    if config.part == "all":
        return sides
    return replace(sides, train=splitting.half(sides.train, config.part, seed=config.split_seed))


def _all_of(config: DatasetConfig, samples: Sequence[Sample]) -> splitting.Split:
    if config.folds is None:
        return splitting.split(samples, validation=config.validation, test=config.test, seed=config.split_seed)
    return splitting.split_fold(
        samples, folds=config.folds, fold=config.fold, validation=config.validation, seed=config.split_seed
    )


def choose_task(config: DatasetConfig, format_name: str, samples: Iterable[Sample]) -> tuple[tasks.Task, str]:
    """Return how answers are judged, and why so."""
    if config.task is not None:
        return tasks.find(config.task), "as set"
    if kind_of(config) == "generated" and config.completion is None:
        return tasks.find("reasoning_gym"), "the task brings its verifier"
    if format_name == "text":
        return tasks.find("text"), "plain text"
    maths = tasks.find("maths")
    answers = (sample.answer for sample in samples)
    if all(map(maths.is_answer, answers)):
        return maths, "every answer is a number"
    return tasks.find("exact"), "some answers are no numbers; --set dataset.task=maths judges by the last number"
