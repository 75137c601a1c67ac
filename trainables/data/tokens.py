"""From samples to tokens: the prompt as the model will be given it, then the completion and the end of the turn.

Prompt and completion are tokenised apart and joined, so that what is learnt follows exactly the tokens that a
prompt has when an answer is generated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainables.base import InputError
from trainables.data.config import NO_TEMPLATE
from trainables.data.formats import Sample
from trainables.training.examples import Example


@dataclass(frozen=True)
class Item:
    """A tokenised sample; `prompt` is the exact text of the first tokens."""

    example: Example
    prompt: str
    sample: Sample


@dataclass(frozen=True)
class Fitted:
    """The items that fit the maximum length, how many were cut or dropped, and the longest before that."""

    items: list[Item]
    cut: int
    dropped: int
    longest: int


class Renderer:
    """Turns samples into prompts and tokens, with or without the tokenizer's chat template."""

    def __init__(self, tokenizer: Any, *, chat_template: bool, system: str | None, separator: str) -> None:
        """Raise InputError if a chat template is wanted and the tokenizer has none."""
        if chat_template and not tokenizer.chat_template:
            raise InputError(NO_TEMPLATE)
        self.tokenizer, self.chat_template = tokenizer, chat_template
        self.system, self.separator = system, separator
        self.begin = self._begin()
        self.end_ids = self._end_of_turn() if chat_template else [tokenizer.eos_token_id]

    @property
    def eos_id(self) -> int:
        """The token at which a generated answer ends."""
        return self.end_ids[-1]

    @property
    def pad_id(self) -> int:
        """The token that fills batches up; no loss ever sees it."""
        tokenizer = self.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    def _begin(self) -> str:
        """Return the text of the token that this tokenizer puts before any text (Llama's <s>), or nothing."""
        tokens, bare = self.tokenizer("x")["input_ids"], self.tokens(["x"])[0]
        return self.tokenizer.bos_token if tokens[:1] != bare[:1] and self.tokenizer.bos_token else ""

    def _end_of_turn(self) -> list[int]:
        """Return the tokens that the template puts behind an answer, up to the special one that ends it."""
        answer = "ANSWER"
        _, found, after = self._rendered([("user", "QUESTION"), ("assistant", answer)]).rpartition(answer)
        tokens = self.tokens([after])[0] if found else []
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        end = next((index for index, token in enumerate(tokens) if token in special), None)
        return [self.tokenizer.eos_token_id] if end is None else tokens[: end + 1]

    def _rendered(self, turns: Iterable[tuple[str, str]], *, for_answer: bool = False) -> str:
        from jinja2 import TemplateError

        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=for_answer))
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(f"the base model's chat template refuses the turns {roles}: {error}") from error

    def prompt(self, sample: Sample) -> str:
        """Return the exact text given to the model, special tokens included."""
        turns = list(sample.turns)
        if self.system is not None:
            turns = [("system", self.system), *(turn for turn in turns if turn[0] != "system")]
        if self.chat_template:
            return self._rendered(turns, for_answer=True)
        return self.begin + "".join(f"{content}{self.separator}" for _, content in turns if content)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, nothing added."""
        return list(self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]) if texts else []

    def items(self, samples: Sequence[Sample], *, completion_only: bool) -> list[Item]:
        """Return prompts and completions as tokens; without `completion_only` the loss counts the prompt too."""
        prompts = [self.prompt(sample) for sample in samples]
        before, after = self.tokens(prompts), self.tokens([sample.completion for sample in samples])
        return [
            Item(Example([*start, *end, *self.end_ids], len(start) if completion_only else 0), prompt, sample)
            for start, end, prompt, sample in zip(before, after, prompts, samples, strict=True)
        ]

    def blocks(self, samples: Sequence[Sample], block_length: int) -> tuple[list[Item], int]:
        """Return the texts, joined by end-of-text tokens, as blocks of equal length, and how many tokens were left."""
        stream = [token for tokens in self.tokens([s.completion for s in samples]) for token in [*tokens, self.eos_id]]
        whole = len(stream) // block_length
        cut = (stream[start : start + block_length] for start in range(0, whole * block_length, block_length))
        items = [Item(Example(block, 0), "", Sample((), self.tokenizer.decode(block), "")) for block in cut]
        return items, len(stream) - whole * block_length


def fit(items: Sequence[Item], maximum: int, too_long: Literal["drop", "truncate"]) -> Fitted:
    """Drop or cut what is longer than `maximum` tokens; an item whose prompt fills it all is always dropped."""
    kept = list(_fitting(items, maximum, too_long))
    longest = max((len(item.example.input_ids) for item in items), default=0)
    cut = sum(len(item.example.input_ids) > maximum for item in items) - (len(items) - len(kept))
    return Fitted(kept, cut, len(items) - len(kept), longest)


def _fitting(items: Sequence[Item], maximum: int, too_long: Literal["drop", "truncate"]) -> Iterator[Item]:
    for item in items:
        tokens, prompt_length = item.example.input_ids, item.example.prompt_length
        if len(tokens) <= maximum:
            yield item
        elif too_long == "truncate" and prompt_length < maximum:
            yield Item(Example(tokens[:maximum], prompt_length), item.prompt, item.sample)
