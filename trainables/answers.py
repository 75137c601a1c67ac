"""Answers: what a model says to each prompt, greedily, and whether that is right.

Generation is transformers' own. Prompts are padded on the left, so that all answers of a batch begin at once, and
what the prompts share is computed once.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables import tasks

if TYPE_CHECKING:
    from trainables.training.item_losses import ItemLoss
    from trainables.training.prompt_cache import PromptCache


@dataclass(frozen=True)
class Decoding:
    """How answers are generated: greedily, until one of `end_ids` or `max_new_tokens`."""

    max_new_tokens: int
    end_ids: tuple[int, ...]
    pad_id: int


@dataclass(frozen=True)
class Answer:
    """One checked answer; `is_correct` is what the task's checker says of it."""

    id: str
    prompt: str
    reference: str
    given: str
    is_correct: bool


def generate(
    model: Any, prompts: Sequence[Sequence[int]], decoding: Decoding, cache: PromptCache | None = None
) -> list[list[int]]:
    """Return the new tokens of each prompt, as one batch, without the token that ended the answer.

    All prompts must begin with the tokens of `cache`. Call it in the precision to generate in, without gradients.
    """
    import torch
    from transformers import GenerationConfig

    # A model's folder may ask for sampling or repetition penalties; generate() would mix them into ours.
    model.generation_config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=list(decoding.end_ids),
        pad_token_id=decoding.pad_id,
    )
    begin = cache.tokens if cache else []
    length = max(len(prompt) for prompt in prompts)
    pads = [length - len(prompt) for prompt in prompts]
    rows = [
        [*begin, *[decoding.pad_id] * pad, *prompt[len(begin) :]] for pad, prompt in zip(pads, prompts, strict=True)
    ]
    mask = [[1] * len(begin) + [0] * pad + [1] * (length - len(begin) - pad) for pad in pads]
    device = next(model.parameters()).device
    ids, attention_mask = torch.tensor(rows, device=device), torch.tensor(mask, device=device)
    past = {"past_key_values": cache.copies(len(rows))} if cache else {}
    tokens: list[list[int]] = model.generate(ids, attention_mask=attention_mask, **past)[:, length:].tolist()
    return [_until(row, decoding.end_ids) for row in tokens]


def _until(tokens: list[int], end_ids: Sequence[int]) -> list[int]:
    end = next((index for index, token in enumerate(tokens) if token in end_ids), len(tokens))
    return tokens[:end]


def checked(task: tasks.Task, item: Mapping[str, Any], given: str) -> Answer:
    """Return the answer to one of the dataset's items with the task's verdict; the task must have a checker."""
    assert task.check is not None
    reference = str(item.get("answer", item["completion"]))
    is_correct = task.check(given, reference, item.get("metadata", {}))
    return Answer(str(item["id"]), str(item["prompt"]), reference, given, is_correct)


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Write one answer a line: id, prompt, reference, given, correct."""
    with path.open("w", encoding="utf-8") as stream:
        for answer in answers:
            line = {name: getattr(answer, name) for name in ("id", "prompt", "reference", "given")}
            stream.write(json.dumps({**line, "correct": answer.is_correct}, ensure_ascii=False) + "\n")


def write_items(
    path: Path, items: Sequence[Mapping[str, Any]], losses: Sequence[ItemLoss], answers: Sequence[Answer]
) -> None:
    """Write one item a line: its id, loss (nats per completion token), tokens, and 1 or 0 for a right or wrong answer.

    `correct` is empty where nothing judges the answers.
    """
    correct = {answer.id: int(answer.is_correct) for answer in answers}
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["item", "loss", "tokens", "correct"])
        for item, found in zip(items, losses, strict=True):
            writer.writerow([item["id"], repr(found.loss), found.tokens, correct.get(str(item["id"]), "")])
