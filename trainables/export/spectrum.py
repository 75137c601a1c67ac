"""The spectrum of a change, layer by layer and pooled: how much of it a rank keeps.

Energy means one thing here: the sum of kept sigma^2 over ||dW||_F^2, which is exact and needs no full spectrum.
The relative error in the Frobenius norm is then sqrt(1 - energy). Pooled values are ratios of sums over layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.linalg.certificate import Certificate
from trainables.targets import Linear


@dataclass(frozen=True)
class LayerSpectrum:
    """One layer: its leading singular values in descending order, and the Frobenius norms of dW and W (fp64).

    `noise_norm` is the Frobenius norm that rounding alone would give dW at the precision the tuned weight is stored
    in; `certificate` bounds the singular values.
    """

    linear: Linear
    type: str
    depth: int | None
    sigma: NDArray[np.float64]
    delta_norm: float
    weight_norm: float
    noise_norm: float
    certificate: Certificate

    @property
    def relative_delta(self) -> float:
        """||dW|| / ||W||; 0 where nothing changed, even a weight of zeros."""
        return _ratio(self.delta_norm, self.weight_norm)

    def kept(self, rank: int) -> float:
        """Return the sum of the leading `rank` sigma^2; rounding may not lift it above ||dW||_F^2."""
        return min(float(np.square(self.sigma[:rank]).sum()), self.delta_norm**2)

    def energy(self, rank: int) -> float:
        """Return the share of ||dW||_F^2 kept at a rank; 1 where nothing changed."""
        return energy([self], rank)


@dataclass(frozen=True)
class Excluded:
    """A tensor that no factor describes (embeddings, norms, biases, heads), and the norm of its change."""

    name: str
    delta_norm: float


@dataclass(frozen=True)
class Spectrum:
    """The change of a whole model: the factorised layers, in the model's order, and everything else."""

    layers: Sequence[LayerSpectrum]
    excluded: Sequence[Excluded]
    rank: int

    @property
    def ranks(self) -> list[int]:
        """The ranks that are reported: the powers of two below the largest, and the largest."""
        return [*(1 << power for power in range((self.rank - 1).bit_length())), self.rank]

    @property
    def delta_norm(self) -> float:
        """||dW||_F over all factorised layers together."""
        return math.sqrt(sum(layer.delta_norm**2 for layer in self.layers))

    @property
    def relative_delta(self) -> float:
        """||dW||_F / ||W||_F over all factorised layers together."""
        return _ratio(self.delta_norm, math.sqrt(sum(layer.weight_norm**2 for layer in self.layers)))

    @property
    def total(self) -> float:
        """||dW||_F^2 of the whole model, each tensor once."""
        return self.delta_norm**2 + sum(tensor.delta_norm**2 for tensor in self.excluded)

    @property
    def outside_share(self) -> float:
        """The share of the whole model's ||dW||_F^2 that lies outside the factorised layers."""
        return _ratio(sum(tensor.delta_norm**2 for tensor in self.excluded), self.total)

    def of_type(self, name: str) -> list[LayerSpectrum]:
        """Return the layers of one type."""
        return [layer for layer in self.layers if layer.type == name]

    @property
    def types(self) -> list[str]:
        """The types of the layers, in the order in which the model has them."""
        return list(dict.fromkeys(layer.type for layer in self.layers))

    def metrics(self) -> dict[str, float]:
        """Return what the record keeps: energy and error at each rank, pooled and as mean over layers, and norms."""
        changed = [layer for layer in self.layers if layer.delta_norm] or self.layers
        return {
            **{f"energy_{rank}": energy(self.layers, rank) for rank in self.ranks},
            **{f"error_{rank}": error(self.layers, rank) for rank in self.ranks},
            **{f"energy_mean_{rank}": _mean([layer.energy(rank) for layer in changed]) for rank in self.ranks},
            "delta_norm": self.delta_norm,
            "relative_delta": self.relative_delta,
            "outside_share": self.outside_share,
            "layers": len(self.layers),
        }


def energy(layers: Sequence[LayerSpectrum], rank: int) -> float:
    """Return the sum of kept sigma^2 over the sum of ||dW||_F^2; 1 if nothing changed, as nothing is lost then."""
    total = sum(layer.delta_norm**2 for layer in layers)
    return sum(layer.kept(rank) for layer in layers) / total if total else 1.0


def error(layers: Sequence[LayerSpectrum], rank: int) -> float:
    """Return the relative error ||dW - dW_r||_F / ||dW||_F."""
    return math.sqrt(max(0.0, 1.0 - energy(layers, rank)))


def by_depth(layers: Sequence[LayerSpectrum], value: Callable[[list[LayerSpectrum]], float]) -> Mapping[int, float]:
    """Return `value` of the layers of each block, by the block's index."""
    depths = sorted({layer.depth for layer in layers if layer.depth is not None})
    return {depth: value([layer for layer in layers if layer.depth == depth]) for depth in depths}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ratio(part: float, whole: float) -> float:
    return part / whole if part else 0.0
