"""Where an init finds the change that it starts from: an export of a teacher, or another student's adapter.

Either is a mapping from layer names to factors of dW in (out, in) orientation, read one layer at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.base import Context, InputError
from trainables.inits.parts.layers import Adapted, adapted_layers
from trainables.linalg.factors import Factors, load_factors

PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
"""How PEFT names a layer and its two factors in a saved adapter."""


def exported(model: Any, context: Context, role: str) -> Iterator[tuple[Adapted, Factors]]:
    """Yield each adapted layer with the leading factors, as many as its rank, of the export that fills a role.

    Raises InputError if the export does not fit the student.
    """
    yield from _fitted(model, load_factors(context.inputs[role]), role)


def learnt(model: Any, context: Context, role: str) -> Iterator[tuple[Adapted, Factors]]:
    """Yield the same of the adapter that the student in a role has learnt."""
    yield from _fitted(model, AdapterFactors(context.inputs[role] / "adapter"), role)


def _fitted(model: Any, factors: Mapping[str, Factors], role: str) -> Iterator[tuple[Adapted, Factors]]:
    for part in adapted_layers(model):
        if part.name not in factors:
            raise InputError(f"{role} has no factors for {part.name}: give {role} and student the same targets")
        found = factors[part.name]
        if part.rank > found.rank:
            raise InputError(
                f"student rank {part.rank} is above the {found.rank} that {role} kept of {part.name}; raise {role}.rank"
            )
        yield part, found.truncated(part.rank)


class AdapterFactors(Mapping[str, Factors]):
    """The singular triplets of what a saved LoRA adapter adds to each layer, scaling * B A; computed when asked for."""

    def __init__(self, folder: Path) -> None:
        """Open an adapter's folder; raises FileNotFoundError."""
        from peft import LoraConfig
        from safetensors import safe_open

        self._config = LoraConfig.from_pretrained(str(folder))
        self._file: Any = safe_open(str(folder / "adapter_model.safetensors"), framework="pt")
        names: list[str] = self._file.keys()  # type: ignore[no-untyped-call]
        self._layers = [name.removeprefix(PREFIX).removesuffix(DOWN) for name in names if name.endswith(DOWN)]

    def __getitem__(self, layer: str) -> Factors:
        if layer not in self._layers:
            raise KeyError(layer)
        a, b = (self._file.get_tensor(f"{PREFIX}{layer}{half}") for half in (DOWN, UP))
        return factors_of_product(a, b, self._scaling(layer, len(a)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def _scaling(self, layer: str, rank: int) -> float:
        from peft.utils.other import get_pattern_key

        patterns = self._config.alpha_pattern
        alpha = float(patterns.get(get_pattern_key(patterns.keys(), layer), self._config.lora_alpha))
        return alpha / (math.sqrt(rank) if self._config.use_rslora else rank)


def factors_of_product(a: Tensor, b: Tensor, scaling: float) -> Factors:
    """Return all singular triplets of scaling * b a, for a (R, in) and b (out, R), in fp32.

    With B = Q_b R_b and A^T = Q_a R_a the product is Q_b (R_b R_a^T) Q_a^T, and only the R x R matrix in the middle is
    decomposed, in fp64: its cost grows with R^2 and not with the layer. (As LoRA-Squeeze avoids the product, too.)
    """
    left, right = torch.linalg.qr(b.double()), torch.linalg.qr(a.double().T)
    u, s, vt = torch.linalg.svd(scaling * left.R @ right.R.T, full_matrices=False)
    return Factors((left.Q @ u).float(), s.float(), (vt @ right.Q.T).float())
