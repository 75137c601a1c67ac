"""The loss of every item by itself, from the same forward passes as the loss of them all.

What is compared item by item needs each item's nats and tokens; their sums give the mean loss per token back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.training.batches import Batch, collate
from trainables.training.config import Precision
from trainables.training.evaluation import MAX_LOGITS, Evaluation, evaluation_batches
from trainables.training.examples import Example
from trainables.training.forward import can_pack, target_logits
from trainables.training.models import autocast


@dataclass(frozen=True)
class ItemLoss:
    """One item: its summed loss in nats, its completion tokens, and how many of them were predicted exactly."""

    nats: float
    tokens: int
    exact: int

    @property
    def loss(self) -> float:
        """Nats per completion token."""
        return self.nats / self.tokens if self.tokens else math.nan


def item_losses(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    batch_size: int,
    precision: Precision,
    device: torch.device | str,
    pad_id: int,
) -> list[ItemLoss]:
    """Return the loss of every example, in their order; the model must be in evaluation mode.

    A loss that is NaN or infinite is returned as it is.
    """
    device = torch.device(device)
    packs = can_pack(model, device)
    max_targets = MAX_LOGITS // model.get_output_embeddings().out_features  # type: ignore[operator]
    found: list[ItemLoss] = []
    with torch.inference_mode(), autocast(precision, device):
        for group in evaluation_batches(examples, batch_size, max_targets, packs=packs):
            found += _of_batch(model, collate(group, pad_id, packs=packs).to(device), group)
    short_to_long = sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))
    return [item for _, item in sorted(zip(short_to_long, found, strict=True), key=lambda pair: pair[0])]


def _of_batch(model: nn.Module, batch: Batch, group: Sequence[Example]) -> list[ItemLoss]:
    logits, targets = target_logits(model, batch), batch.targets
    counts = torch.tensor([example.completion_tokens for example in group], device=targets.device)
    losses = nn.functional.cross_entropy(logits, targets, reduction="none").double()
    nats, exact = (_by_item(values, counts) for values in (losses, (logits.argmax(-1) == targets).double()))
    return [ItemLoss(*values) for values in zip(nats.tolist(), counts.tolist(), exact.long().tolist(), strict=True)]


def _by_item(values: Tensor, counts: Tensor) -> Tensor:
    """Return the sums (items,) of `values` (targets,), which come item by item."""
    owners = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return torch.zeros(len(counts), dtype=values.dtype, device=values.device).index_add_(0, owners, values)


def pooled(items: Sequence[ItemLoss]) -> Evaluation:
    """Return mean loss per token, perplexity and token accuracy over all items; ValueError without a token."""
    nats = math.fsum(item.nats for item in items)
    return Evaluation.of(nats, sum(item.exact for item in items), sum(item.tokens for item in items))
