"""Loss, perplexity and token accuracy on held-out examples.

The loss is a sum over completion tokens divided by their number, never a mean of batch means, so it does not
depend on how the examples were batched, nor on which worker evaluated which batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.training.batches import MAX_PACKED, Batch, collate, own_tokens, shared_prefix
from trainables.training.config import Precision
from trainables.training.engine import Engine
from trainables.training.examples import Example
from trainables.training.forward import can_pack, target_logits
from trainables.training.models import autocast
from trainables.training.workers import Workers

MAX_LOGITS = 2**26
"""Most logits (targets x vocabulary) held at once: 256 MiB in fp32."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured: mean loss in nats per completion token, its exponential, the share predicted exactly."""

    loss: float
    perplexity: float
    token_accuracy: float
    tokens: int

    @classmethod
    def of(cls, nats: float, exact: float, tokens: float) -> Evaluation:
        """Return what a summed loss and numbers of exact predictions and of tokens say; ValueError without a token."""
        if not tokens:
            raise ValueError("nothing to evaluate: the examples have no completion tokens")
        loss = nats / tokens
        return cls(loss, math.exp(loss) if loss < 700 else math.inf, exact / tokens, int(tokens))


def evaluate_loss(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    batch_size: int,
    precision: Precision,
    device: torch.device | str,
    pad_id: int,
) -> Evaluation:
    """Return loss, perplexity and token accuracy over all completion tokens of the examples.

    The model is put in evaluation mode for it, and back. A loss that is NaN or infinite is returned as it is.
    Raises ValueError if there is no completion token to predict.
    """
    device = torch.device(device)

    def forward(batch: Batch) -> Tensor:
        with autocast(precision, device):
            return sums(model, batch)

    with torch.inference_mode():
        return _evaluate(model, examples, forward, Workers(device=device), batch_size=batch_size, pad_id=pad_id)


def evaluate_engine(engine: Engine, examples: Sequence[Example], *, batch_size: int, pad_id: int) -> Evaluation:
    """Return what `evaluate_loss` does for the model being trained; the engine's workers divide the batches.

    Every worker returns the same, and makes as many passes as the others.
    """

    def forward(batch: Batch) -> Tensor:
        return engine.forward(sums, batch)

    with torch.no_grad() if engine.passes_meet else torch.inference_mode():
        return _evaluate(engine.model, examples, forward, engine.workers, batch_size=batch_size, pad_id=pad_id)


def _evaluate(
    model: nn.Module,
    examples: Sequence[Example],
    forward: Callable[[Batch], Tensor],
    workers: Workers,
    *,
    batch_size: int,
    pad_id: int,
) -> Evaluation:
    was_training = model.training
    model.eval()
    totals = torch.zeros(3, dtype=torch.float64, device=workers.device)
    max_targets = MAX_LOGITS // model.get_output_embeddings().out_features  # type: ignore[operator]
    packs = can_pack(model, workers.device)
    batches = list(evaluation_batches(examples, batch_size, max_targets, packs=packs))
    for first in range(0, len(batches), workers.size):
        index = first + workers.rank
        is_mine = index < len(batches)
        found = forward(collate(batches[index if is_mine else first], pad_id, packs=packs).to(workers.device))
        if is_mine:
            totals += found
    model.train(was_training)
    return Evaluation.of(*workers.sum(totals).tolist())


def evaluation_batches(
    examples: Sequence[Example], batch_size: int, max_targets: int, *, packs: bool = False
) -> Iterator[list[Example]]:
    """Yield the examples from short to long in batches of at most `batch_size` sequences and `max_targets` targets.

    Sorting saves padding. Where batches may be packed and all examples begin alike, a batch is short enough to be.
    An example beyond a limit is a batch of its own.
    """
    shared = shared_prefix(examples) if packs and examples else 0
    max_tokens = MAX_PACKED - shared if shared else math.inf
    batch: list[Example] = []
    targets = tokens = 0
    for example in sorted(examples, key=lambda example: len(example.input_ids)):
        own = own_tokens(example, shared)
        is_full = targets + example.completion_tokens > max_targets or tokens + own > max_tokens
        if batch and (is_full or len(batch) == batch_size):
            yield batch
            batch, targets, tokens = [], 0, 0
        batch.append(example)
        targets, tokens = targets + example.completion_tokens, tokens + own
    if batch:
        yield batch


def sums(model: nn.Module, batch: Batch) -> Tensor:
    """Return summed loss, number of exact predictions and number of targets, in fp64 and on the device."""
    logits, targets = target_logits(model, batch), batch.targets
    loss = nn.functional.cross_entropy(logits, targets, reduction="none").double().sum()
    correct = (logits.argmax(-1) == targets).sum()
    return torch.stack([loss, correct.double(), torch.full_like(loss, len(targets))])
