"""From tokenised examples to tensors.

A batch is laid out in one of two ways. Padded: one sequence a row. Packed: all sequences in one row, with the
prompt that they begin with in common only once (a chat template, an instruction), and a mask that keeps the
sequences apart. Packing is exact, for a token sees the same tokens at the same positions; with short prompts
on a CPU it saves half of the work and more. In both, a sequence's last token is left out: it predicts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import torch
from torch import Tensor

from trainables.training.examples import Example

T = TypeVar("T")

MAX_PACKED = 512
"""Longest packed row: attention's cost grows with its square."""


@dataclass(frozen=True)
class Batch:
    """Sequences, and where their completion tokens are predicted.

    input_ids, position_ids   (rows, length)
    attention_mask            (rows, length) where padded, (1, 1, length, length) and boolean where packed
    sources                   (targets,) flat positions whose hidden states predict the targets
    targets                   (targets,) the completion tokens, item by item
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    sources: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        parts = (self.input_ids, self.position_ids, self.attention_mask, self.sources, self.targets)
        return Batch(*(part.to(device, non_blocking=True) for part in parts))


def collate(examples: Sequence[Example], pad_id: int, *, packs: bool = False) -> Batch:
    """Return the examples as one batch; packed if that is allowed, has fewer tokens and is not too long."""
    if packs:
        shared = shared_prefix(examples)
        length = shared + sum(own_tokens(example, shared) for example in examples)
        padded_tokens = len(examples) * max(own_tokens(example, 0) for example in examples)
        if length < padded_tokens and length <= MAX_PACKED:
            return packed(examples, shared)
    return padded(examples, pad_id)


def own_tokens(example: Example, shared: int) -> int:
    """Return how many tokens of the example go through the model after the first `shared` ones."""
    return len(example.input_ids) - 1 - shared


def padded(examples: Sequence[Example], pad_id: int) -> Batch:
    """Return the examples as rows, padded on the right to the longest."""
    lengths = [own_tokens(example, 0) for example in examples]
    length = max(lengths)
    positions = torch.arange(length).expand(len(examples), length)
    tokens = [example.input_ids[:-1] + [pad_id] * (length - len(example.input_ids) + 1) for example in examples]
    sources = [row * length + position for row, example in enumerate(examples) for position in _sources(example)]
    mask = (positions < torch.tensor(lengths)[:, None]).long()
    return Batch(torch.tensor(tokens), positions, mask, torch.tensor(sources), _targets(examples))


def packed(examples: Sequence[Example], shared: int) -> Batch:
    """Return the examples as one row, their first `shared` tokens once; these must be the same and all prompt."""
    tokens = examples[0].input_ids[:shared]
    positions, owners = list(range(shared)), [-1] * shared
    sources: list[int] = []
    for owner, example in enumerate(examples):
        start, own = len(tokens) - shared, own_tokens(example, shared)
        sources.extend(start + position for position in _sources(example))
        tokens = tokens + example.input_ids[shared:-1]
        positions.extend(range(shared, shared + own))
        owners.extend([owner] * own)
    position, owner_of = torch.tensor(positions), torch.tensor(owners)
    is_visible = (owner_of == -1) | (owner_of == owner_of[:, None])
    mask = is_visible & (position <= position[:, None])
    return Batch(torch.tensor([tokens]), position[None], mask[None, None], torch.tensor(sources), _targets(examples))


def shared_prefix(examples: Sequence[Example]) -> int:
    """Return how many tokens all examples begin with, at most all but the last of the shortest prompt.

    The last prompt token stays with its own sequence, since it predicts that sequence's first target.
    """
    first = min(examples, key=lambda example: example.input_ids).input_ids
    last = max(examples, key=lambda example: example.input_ids).input_ids
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return max(0, min(common, min(example.prompt_length for example in examples) - 1))


def completion_tokens(examples: Sequence[Example]) -> int:
    """Return how many tokens of the examples a loss counts."""
    return sum(example.completion_tokens for example in examples)


def chunks(sequence: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the sequence in pieces of `size`, the last one perhaps shorter."""
    for start in range(0, len(sequence), size):
        yield sequence[start : start + size]


def _sources(example: Example) -> range:
    """Return the positions that predict the example's completion tokens: each is one before its target."""
    return range(max(example.prompt_length, 1) - 1, len(example.input_ids) - 1)


def _targets(examples: Sequence[Example]) -> Tensor:
    return torch.tensor([token for example in examples for token in example.input_ids[max(example.prompt_length, 1) :]])
