"""Tiny models and made-up examples for the tests of training."""

from __future__ import annotations

import functools
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainables.base_models import tiny
from trainables.training.examples import Example, save_examples

FAMILIES = ("gpt2", "llama", "qwen2")


@functools.cache
def base_model(family: str, seed: int = 0) -> Path:
    """Return the folder of a tiny model, built once for all tests of this process."""
    folder = Path(tempfile.mkdtemp(prefix=f"{family}-"))
    tiny.build(family, seed, folder)
    return folder


def examples(count: int, *, seed: int = 0, equal: bool = False, vocabulary: int = 200) -> list[Example]:
    """Return sequences with something to learn: the completion repeats the prompt's first tokens."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        prompt, completion = (8, 4) if equal else (draw.randint(3, 12), draw.randint(1, 6))
        tokens = [draw.randrange(10, vocabulary) for _ in range(prompt)]
        made.append(Example(tokens + (tokens * 3)[:completion], prompt))
    return made


@functools.cache
def dataset(train: int = 24, validation: int = 10, *, equal: bool = False) -> Path:
    """Return the folder of a dataset of made-up examples."""
    folder = Path(tempfile.mkdtemp(prefix="dataset-"))
    for split, count, seed in (("train", train, 1), ("validation", validation, 2), ("test", validation, 3)):
        made = examples(count, seed=seed, equal=equal)
        save_examples(folder, split, made, _items(made))
    (folder / "dataset.json").write_text(json.dumps({"pad_id": 0}))
    return folder


def _items(made: Sequence[Example]) -> list[dict[str, str]]:
    return [{"id": str(index), "prompt": "", "completion": ""} for index in range(len(made))]


def inputs(family: str, **more: Path) -> dict[str, Path]:
    """Return the inputs of a teacher or student on a tiny model."""
    return {"base_model": base_model(family), "dataset": dataset(), **more}
