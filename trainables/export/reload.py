"""Does the adapter on disk do what it should? Base + adapter, loaded by PEFT, against base + truncated dW, on logits.

Two routes to the same function that share nothing but the factors: PEFT's own code reads the folder and multiplies
by B and A; the other adds U S V^T to the weights. One model is in memory, and what it computes is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.export.adapter import AdapterDtype
from trainables.linalg.factors import Factors
from trainables.targets import Linear

SEQUENCES, LENGTH = 4, 32
"""Tokens of the check: enough for every layer to matter, few enough for any vocabulary's logits."""
TOLERANCE: Mapping[AdapterDtype, float] = {"fp32": 1e-3, "bf16": 5e-2}
"""Largest difference of two logits, relative to the largest change of a logit by dW.

One adapted layer that is left out, transposed or scaled wrongly moves the logits by more than a thousandth of the whole
change. Rounding the halves to bf16 moves each entry of dW by up to 2^-8 of itself, and the logits by about as much.
"""
ROUNDINGS = 512
"""Logits in fp32 are sure to so many units of rounding of the largest, which a small change cannot be told from.

Measured: 60 in a model of 30 blocks, where W + dW in fp32 alone rounds away 3e-5 of a dW of 1e-3 of W.
"""


class ReloadError(RuntimeError):
    """The adapter on disk is not what was factorised: a mistake of ours, never of the user's."""


@dataclass(frozen=True)
class ReloadCheck:
    """The largest difference between the logits of both routes, and what it is compared with.

    `change` is the largest change of a logit from the base to base + truncated dW, `logit` the largest logit.
    """

    difference: float
    change: float
    logit: float
    dtype: AdapterDtype

    @property
    def relative(self) -> float:
        """The difference over the change; 0 where both are 0."""
        return self.difference / self.change if self.difference else 0.0

    @property
    def tolerance(self) -> float:
        """What `relative` may be: see TOLERANCE, and the rounding of the logits themselves over the change."""
        rounding = ROUNDINGS * torch.finfo(torch.float32).eps * self.logit
        return TOLERANCE[self.dtype] + (rounding / self.change if self.change else 0.0)

    @property
    def is_passed(self) -> bool:
        """Whether the adapter is what it should be; NaN is not."""
        return self.relative <= self.tolerance


def check_reload(
    base: Path,
    adapter: Path,
    factors: Mapping[str, Factors],
    ranks: Mapping[str, int],
    linears: Sequence[Linear],
    *,
    dtype: AdapterDtype = "fp32",
    device: torch.device | str = "cpu",
) -> ReloadCheck:
    """Return the comparison; raises ReloadError if the adapter's logits are not those of the truncated change."""
    from peft import PeftModel

    from trainables.training.models import load_model, quiet

    model = load_model(base, device=device)
    tokens = spread_tokens(model.get_input_embeddings().num_embeddings).to(device)
    before = logits(model, tokens)
    with quiet():
        adapted = PeftModel.from_pretrained(model, str(adapter))
        by_peft = logits(adapted, tokens)
        model = adapted.unload()
    add_change(model, factors, ranks, linears)
    by_weights = logits(model, tokens)
    change, logit = float((by_weights - before).abs().max()), float(by_weights.abs().max())
    found = ReloadCheck(float((by_peft - by_weights).abs().max()), change, logit, dtype)
    if not found.is_passed:
        raise ReloadError(
            f"the adapter in {adapter} does not do what was factorised: its logits differ by {found.relative:.2g} of "
            f"the change, and at most {found.tolerance:.2g} is rounding"
        )
    return found


def spread_tokens(vocabulary: int) -> Tensor:
    """Return fixed token ids (sequences, length) spread evenly over the vocabulary, in an order without pattern."""
    golden = (5**0.5 - 1) / 2
    places = (torch.arange(1, SEQUENCES * LENGTH + 1, dtype=torch.float64) * golden) % 1
    return (places * vocabulary).long().reshape(SEQUENCES, LENGTH)


def logits(model: Any, tokens: Tensor) -> Tensor:
    """Return the model's logits (sequences, length, vocabulary) in fp32, on the CPU."""
    with torch.inference_mode():
        output: Tensor = model(input_ids=tokens, use_cache=False).logits
    return output.float().cpu()


def add_change(
    model: Any,
    factors: Mapping[str, Factors],
    ranks: Mapping[str, int],
    linears: Sequence[Linear],
    *,
    before: Mapping[str, int] | None = None,
) -> None:
    """Add U S V^T of each layer's leading triplets to its weight, in place, one layer in memory at a time.

    `before` says how many triplets the weight holds already: those between the two ranks are added, or taken away.
    """
    for linear in linears:
        have, want = (before or {}).get(linear.name, 0), ranks[linear.name]
        if have == want:
            continue
        found, low, high = factors[linear.name], min(have, want), max(have, want)
        weight = model.get_submodule(linear.name).weight
        part = Factors(found.u[:, low:high], found.s[low:high], found.vt[low:high])
        delta = part.delta().to(weight.device) * (1 if want > have else -1)
        with torch.no_grad():
            weight += delta.T if linear.is_transposed else delta
