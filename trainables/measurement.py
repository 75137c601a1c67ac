"""A model on the items of a split: their losses, and its answers, checked."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainables import tasks
from trainables.answers import Answer, Decoding, checked, generate
from trainables.base import Context
from trainables.training.config import Precision

if TYPE_CHECKING:
    from trainables.training.examples import Example
    from trainables.training.item_losses import ItemLoss


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


def load_data(context: Context, split: str, most: int | None) -> Data:
    """Return the split's items, their prompts as tokens, and the tokenizer; a warm worker keeps them."""
    from trainables.base_models.folder import load_tokenizer, trusts_remote_code
    from trainables.training.examples import load_examples, load_facts, load_items
    from trainables.training.models import quiet

    base, folder = context.inputs["base_model"], context.inputs["dataset"]
    key = f"evaluate {base} {folder} {split} {most}"
    if key not in context.cache:
        examples, items = load_examples(folder, split), load_items(folder, split)
        with quiet():
            tokenizer = load_tokenizer(base, trust_remote_code=trusts_remote_code(base))
        context.cache[key] = Data(examples[:most], items[:most], load_facts(folder), tokenizer)
    data: Data = context.cache[key]
    return data


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
