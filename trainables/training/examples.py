"""The tokenised examples of a dataset artefact: written once by `dataset`, read by everything that trains or tests.

A split is a ragged array: all tokens joined, offsets to cut them apart, and each item's prompt length. A loss
counts the tokens at positions >= prompt_length; position 0 is never a target, so text in blocks has a prompt of 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """One item: its tokens, prompt first, and how many of them are the prompt."""

    input_ids: list[int]
    prompt_length: int

    @property
    def completion_tokens(self) -> int:
        """The number of tokens that a loss counts."""
        return len(self.input_ids) - max(self.prompt_length, 1)


def save_examples(folder: Path, split: str, examples: Sequence[Example], items: Iterable[Mapping[str, Any]]) -> None:
    """Write one split: `SPLIT.safetensors` with the tokens and `SPLIT.jsonl` with the items in the same order."""
    lengths = [len(example.input_ids) for example in examples]
    tokens = [token for example in examples for token in example.input_ids]
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "input_ids": np.array(tokens, dtype=np.int32),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "prompt_lengths": np.array([example.prompt_length for example in examples], dtype=np.int32),
    }
    save_file(arrays, folder / f"{split}.safetensors")
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def load_examples(folder: Path, split: str) -> list[Example]:
    """Return the tokenised items of one split ("train", "validation" or "test") of a dataset artefact."""
    arrays = load_file(folder / f"{split}.safetensors")
    tokens, offsets = arrays["input_ids"].tolist(), arrays["offsets"].tolist()
    bounds = zip(offsets[:-1], offsets[1:], arrays["prompt_lengths"].tolist(), strict=True)
    return [Example(tokens[start:end], prompt) for start, end, prompt in bounds]


def load_items(folder: Path, split: str) -> list[dict[str, Any]]:
    """Return the readable items of one split, in the order of `load_examples`."""
    with (folder / f"{split}.jsonl").open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def load_facts(folder: Path) -> dict[str, Any]:
    """Return `dataset.json`: counts, what was cut and dropped, task, tokenizer facts, source, maximum length."""
    return dict(json.loads((folder / "dataset.json").read_text(encoding="utf-8")))
