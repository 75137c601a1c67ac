"""What a truncated change does, not only how much of it is kept: held-out loss of base + dW_r at each rank.

Energy understates function (on a small model a rank that kept 37 % of the energy kept 73 % of the loss gain), so both
are shown. One model is in memory: its weights move from rank to rank by the triplets between them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainables.base import InputError, Progress
from trainables.export.ranks import kept
from trainables.export.reload import add_change
from trainables.export.spectrum import FunctionalGain, LayerSpectrum
from trainables.linalg.factors import Factors
from trainables.training.evaluation import evaluate_loss
from trainables.training.examples import Example
from trainables.training.models import load_model

EXPORTED = "as exported"
"""The label of the ranks that the adapter has, where they differ from layer to layer."""


def functional_gains(
    base: Path,
    tuned: Path,
    factors: Mapping[str, Factors],
    layers: Sequence[LayerSpectrum],
    ranks: Sequence[int],
    examples: Sequence[Example],
    *,
    chosen: Mapping[str, int] | None = None,
    pad_id: int = 0,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    log: Callable[[str], None] = lambda line: None,
) -> Generator[Progress, None, list[FunctionalGain]]:
    """Return the loss of base, base + dW at each of `ranks` and at the `chosen` ranks of the layers, and tuned.

    A loss is the cross-entropy in nats summed over the examples' completion tokens over their number, in fp32.
    `ranks` are capped by what a layer has. Yields before the first loss and after each. Raises InputError for a token
    that one of the models does not know.
    """
    linears = [layer.linear for layer in layers]
    wanted = [(f"rank {r}", r, {linear.name: linear.rank(r) for linear in linears}) for r in sorted(ranks)]
    steps = [*wanted, *([(EXPORTED, None, chosen)] if chosen else [])]
    options: dict[str, Any] = {"batch_size": batch_size, "precision": "fp32", "device": device, "pad_id": pad_id}
    meter = _Meter(examples, options, len(steps) + 2, log)
    yield Progress(0, meter.total)
    model = load_model(base, device=device)
    yield from meter.measure(model, "base")
    have = dict.fromkeys((linear.name for linear in linears), 0)
    whole = sum(layer.delta_norm**2 for layer in layers)
    for label, rank, want in steps:
        add_change(model, factors, want, linears, before=have)
        have = dict(want)
        yield from meter.measure(model, label, rank, kept(layers, want) / whole if whole else 1.0)
    del model
    yield from meter.measure(load_model(tuned, device=device), "tuned")
    return meter.gains


@dataclass(frozen=True)
class _Meter:
    """Measures one model after the other on the same examples, `total` of them, and keeps what it found."""

    examples: Sequence[Example]
    options: Mapping[str, Any]
    total: int
    log: Callable[[str], None]
    gains: list[FunctionalGain] = field(default_factory=list)

    def measure(
        self, model: Any, label: str, rank: int | None = None, share: float | None = None
    ) -> Iterator[Progress]:
        """Yield once the model's loss is known; say it when that has been heard."""
        check_tokens(self.examples, model.get_input_embeddings().num_embeddings, label)
        found = evaluate_loss(model, self.examples, **self.options)
        self.gains.append(FunctionalGain(label, rank, share, found.loss))
        yield Progress(len(self.gains), self.total)
        self.log(f"held-out loss of {label}: {found.loss:.3f}")


def check_tokens(examples: Sequence[Example], rows: int, label: str) -> None:
    """Raise InputError if the examples have a token that a model with so many rows of embeddings does not know."""
    highest = max(max(example.input_ids) for example in examples)
    if highest >= rows:
        raise InputError(
            f"--data: the base's tokenizer gives a token {highest}, and the {label.removesuffix(' model')} model knows "
            f"{rows} only: leave out --data, or give items without it"
        )
