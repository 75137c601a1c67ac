"""What a saved LoRA adapter adds to the weights, as factors: its product is never formed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.base import InputError
from trainables.linalg.factors import Factors

PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
"""How PEFT names a layer and its two factors in a saved adapter."""


class AdapterFactors(Mapping[str, Factors]):
    """The singular triplets of what a saved LoRA adapter adds to each layer, scaling * B A; computed when asked for."""

    def __init__(self, folder: Path) -> None:
        """Open an adapter's folder; raises FileNotFoundError, and InputError for an adapter that is no LoRA."""
        from peft import PeftConfig
        from safetensors import safe_open

        self._config: Any = PeftConfig.from_pretrained(str(folder))
        if self._config.peft_type != "LORA":
            raise InputError(f"{folder} is an adapter of the kind {self._config.peft_type}, not a LoRA: give a LoRA")
        self._file: Any = safe_open(str(folder / "adapter_model.safetensors"), framework="pt")
        names: list[str] = self._file.keys()  # type: ignore[no-untyped-call]
        self._layers = [name.removeprefix(PREFIX).removesuffix(DOWN) for name in names if name.endswith(DOWN)]

    def __getitem__(self, layer: str) -> Factors:
        return factors_of_product(*self.halves(layer))

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def rank(self) -> int:
        """The adapter's rank, where no pattern says otherwise; one that was trained on a subtracted start has twice."""
        return int(self._config.r)

    def halves(self, layer: str) -> tuple[Tensor, Tensor, float]:
        """Return A (r, in), B (out, r) and the scaling of a layer; raises KeyError."""
        if layer not in self._layers:
            raise KeyError(layer)
        a, b = (self._file.get_tensor(f"{PREFIX}{layer}{half}") for half in (DOWN, UP))
        return a, b, self._scaling(layer, len(a))

    def _scaling(self, layer: str, rank: int) -> float:
        from peft.utils.other import get_pattern_key

        patterns = self._config.alpha_pattern
        alpha = float(patterns.get(get_pattern_key(patterns.keys(), layer), self._config.lora_alpha))
        return alpha / (math.sqrt(rank) if self._config.use_rslora else rank)


def factors_of_product(a: Tensor, b: Tensor, scaling: float) -> Factors:
    """Return all singular triplets of scaling * b a, for a (R, in) and b (out, R), in fp32; min(R, in, out) of them.

    With B = Q_b R_b and A^T = Q_a R_a the product is Q_b (R_b R_a^T) Q_a^T, and only the R x R matrix in the middle is
    decomposed, in fp64: its cost grows with R^2 and not with the layer. (As LoRA-Squeeze avoids the product, too.)
    """
    left, right = torch.linalg.qr(b.double()), torch.linalg.qr(a.double().T)
    u, s, vt = torch.linalg.svd(scaling * left.R @ right.R.T, full_matrices=False)
    return Factors((left.Q @ u).float(), s.float(), (vt @ right.Q.T).float())
