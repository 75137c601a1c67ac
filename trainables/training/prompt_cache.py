"""The model's cache after the tokens that all prompts begin with, so that generation runs them once.

Prompts of one task share a system message and an instruction; their keys and values depend on nothing that
follows, and every batch can start from a copy of them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainables.training.batches import shared_prefix
from trainables.training.examples import Example

WORTHWHILE = 8
"""Shorter beginnings are not worth a forward pass of their own."""


@dataclass(frozen=True)
class PromptCache:
    """Tokens and the model's cache after them, for one sequence."""

    tokens: list[int]
    cache: Any

    def copies(self, rows: int) -> Any:
        """Return a cache for a batch of `rows` sequences that begin with the tokens; it is the caller's to extend."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return cache


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens that all prompts begin with, short of a whole prompt; empty if too few to be worthwhile."""
    if len(prompts) < 2:
        return []
    length = shared_prefix([Example(list(prompt), len(prompt)) for prompt in prompts])
    return list(prompts[0][:length]) if length >= WORTHWHILE else []


def fill_cache(model: nn.Module, tokens: list[int]) -> PromptCache | None:
    """Run the tokens through the model; None if there are none, or the model keeps another kind of cache.

    Only plain keys and values can be copied and extended: recurrent states and sliding windows are left alone.
    Call it in the precision and grad mode in which the cache will be used.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if not tokens:
        return None
    device = next(model.parameters()).device
    cache = model(input_ids=torch.tensor([tokens], device=device), use_cache=True, logits_to_keep=1).past_key_values
    if type(cache) is not DynamicCache or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    return PromptCache(tokens, cache)
