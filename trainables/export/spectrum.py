"""The spectrum of a change, layer by layer and pooled: how much of it a rank keeps, and how sure that is.

Energy means one thing here: the sum of kept sigma^2 over ||dW||_F^2, which is exact and needs no full spectrum.
The relative error in the Frobenius norm is then sqrt(1 - energy). Pooled values are ratios of sums over layers.
Beyond the triplets that were computed an energy is a lower bound; `known_rank` says where that begins.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.linalg.certificate import Certificate
from trainables.targets import Linear, group

NEAR_NOISE = 10.0
"""A change within this many times of its rounding noise is flagged: what is measured may be the noise."""


def is_near_noise(delta_norm: float, noise_norm: float) -> bool:
    """Say whether a change is less than `NEAR_NOISE` times its rounding-noise floor; no change at all is not noise."""
    return 0 < delta_norm < NEAR_NOISE * noise_norm


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
    def group(self) -> str:
        """Whether the layer is part of the "attention", of the "mlp", or of neither ("other")."""
        return group(self.linear.name)

    @property
    def known(self) -> int:
        """How many singular triplets were computed."""
        return len(self.sigma)

    @property
    def is_complete(self) -> bool:
        """True if no singular value is missing, so that the energy is known at every rank."""
        return self.known >= self.linear.rank(self.known + 1) or not self.delta_norm

    @property
    def relative_delta(self) -> float:
        """||dW|| / ||W||; 0 where nothing changed, even a weight of zeros."""
        return _ratio(self.delta_norm, self.weight_norm)

    @property
    def is_near_noise(self) -> bool:
        """True if the layer changed, but by less than `NEAR_NOISE` times what rounding alone would change."""
        return is_near_noise(self.delta_norm, self.noise_norm)

    @property
    def noise_sigma(self) -> float:
        """The largest singular value that the rounding noise is expected to have.

        For m x n independent entries of deviation s it is s (sqrt(m) + sqrt(n)) (Geman, Ann. Probab. 8, 1980);
        s = noise_norm / sqrt(m n).
        """
        rows, columns = self.linear.out_features, self.linear.in_features
        return self.noise_norm * (1 / math.sqrt(rows) + 1 / math.sqrt(columns))

    @property
    def above_noise(self) -> int:
        """How many of the known singular values exceed the largest one expected of the noise."""
        return int(np.count_nonzero(self.sigma > self.noise_sigma))

    def kept(self, rank: int) -> float:
        """Return the sum of the leading `rank` sigma^2; rounding may not lift it above ||dW||_F^2."""
        return min(float(np.square(self.sigma[:rank]).sum()), self.delta_norm**2)

    def kept_at_most(self, rank: int) -> float:
        """Return an upper bound on `kept`: singular values that were not computed are no larger than the last one."""
        missing = max(0, self.linear.rank(rank) - self.known)
        last = float(self.sigma[-1]) if self.known else math.inf
        return min(self.kept(rank) + (missing * last**2 if missing else 0.0), self.delta_norm**2)

    def energy(self, rank: int) -> float:
        """Return the share of ||dW||_F^2 kept at a rank; 1 where nothing changed."""
        return energy([self], rank)

    def parameters(self, rank: int) -> int:
        """Return the number of parameters of an adapter of that rank on this layer."""
        return self.linear.rank(rank) * (self.linear.out_features + self.linear.in_features)


@dataclass(frozen=True)
class Excluded:
    """A tensor that no factor describes, the norm of its change, and why it is outside ("embeddings", "1-D", ...)."""

    name: str
    delta_norm: float
    reason: str = ""


@dataclass(frozen=True)
class FunctionalGain:
    """The held-out loss (nats per completion token) of the base plus a truncated change.

    `label` is "base", "tuned" or "rank 8"; `rank` is None for the first two. `energy` is what the rank keeps of the
    factorised layers' ||dW||^2; None where that says nothing ("base", "tuned").
    """

    label: str
    rank: int | None
    energy: float | None
    loss: float


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
        return delta_norm(self.layers)

    @property
    def relative_delta(self) -> float:
        """||dW||_F / ||W||_F over all factorised layers together."""
        return relative_delta(self.layers)

    @property
    def noise_norm(self) -> float:
        """The Frobenius norm that rounding alone would give dW, over all factorised layers together."""
        return math.sqrt(sum(layer.noise_norm**2 for layer in self.layers))

    @property
    def near_noise(self) -> list[LayerSpectrum]:
        """The layers whose change is within `NEAR_NOISE` times of the rounding noise."""
        return [layer for layer in self.layers if layer.is_near_noise]

    @property
    def total(self) -> float:
        """||dW||_F^2 of the whole model, each tensor once."""
        return self.delta_norm**2 + sum(tensor.delta_norm**2 for tensor in self.excluded)

    @property
    def outside_share(self) -> float:
        """The share of the whole model's ||dW||_F^2 that lies outside the factorised layers."""
        return _ratio(sum(tensor.delta_norm**2 for tensor in self.excluded), self.total)

    @property
    def types(self) -> list[str]:
        """The types of the layers, in the order in which the model has them."""
        return list(dict.fromkeys(layer.type for layer in self.layers))

    @property
    def groups(self) -> list[str]:
        """The groups that the layers belong to, of "attention", "mlp" and "other"."""
        found = {layer.group for layer in self.layers}
        return [name for name in ("attention", "mlp", "other") if name in found]

    @property
    def depths(self) -> list[int]:
        """The indices of the blocks that have factorised layers, ascending."""
        return sorted({layer.depth for layer in self.layers if layer.depth is not None})

    @property
    def routes(self) -> dict[str, int]:
        """How many layers took each route of the factorisation, the most frequent first."""
        return dict(Counter(layer.certificate.route for layer in self.layers).most_common())

    @property
    def bound(self) -> float:
        """The largest relative error that any kept singular value of any layer can have."""
        return max((layer.certificate.bound for layer in self.layers), default=0.0)

    @property
    def failure_probability(self) -> float:
        """The chance that some bound is wrong: the sum over layers (union bound); 0 if none rests on chance."""
        return min(1.0, sum(layer.certificate.failure_probability for layer in self.layers))

    def of_type(self, name: str) -> list[LayerSpectrum]:
        """Return the layers of one type."""
        return [layer for layer in self.layers if layer.type == name]

    def of_group(self, name: str) -> list[LayerSpectrum]:
        """Return the layers of one group."""
        return [layer for layer in self.layers if layer.group == name]

    def at_depth(self, depth: int) -> list[LayerSpectrum]:
        """Return the layers of one block."""
        return [layer for layer in self.layers if layer.depth == depth]

    def metrics(self) -> dict[str, float]:
        """Return what the record keeps: energy and error at each rank, pooled and as mean over layers, and norms."""
        return {
            **{f"energy_{rank}": energy(self.layers, rank) for rank in self.ranks},
            **{f"error_{rank}": error(self.layers, rank) for rank in self.ranks},
            **{f"energy_mean_{rank}": mean_energy(self.layers, rank) for rank in self.ranks},
            "delta_norm": self.delta_norm,
            "relative_delta": self.relative_delta,
            "outside_share": self.outside_share,
            "layers": len(self.layers),
            "near_noise_layers": len(self.near_noise),
            "certified_bound": self.bound,
        }


def delta_norm(layers: Sequence[LayerSpectrum]) -> float:
    """Return ||dW||_F over the layers together."""
    return math.sqrt(sum(layer.delta_norm**2 for layer in layers))


def relative_delta(layers: Sequence[LayerSpectrum]) -> float:
    """Return ||dW||_F / ||W||_F over the layers together."""
    return _ratio(delta_norm(layers), math.sqrt(sum(layer.weight_norm**2 for layer in layers)))


def energy(layers: Sequence[LayerSpectrum], rank: int) -> float:
    """Return the sum of kept sigma^2 over the sum of ||dW||_F^2; 1 if nothing changed, as nothing is lost then."""
    return split_energy(layers, {layer.linear.name: rank for layer in layers})


def error(layers: Sequence[LayerSpectrum], rank: int) -> float:
    """Return the relative error ||dW - dW_r||_F / ||dW||_F."""
    return math.sqrt(max(0.0, 1.0 - energy(layers, rank)))


def mean_energy(layers: Sequence[LayerSpectrum], rank: int) -> float:
    """Return the mean of the layers' own energies, over those that changed."""
    changed = [layer for layer in layers if layer.delta_norm] or layers
    return sum(layer.energy(rank) for layer in changed) / len(changed) if changed else 1.0


def split_energy(layers: Sequence[LayerSpectrum], ranks: Mapping[str, int]) -> float:
    """Return the pooled energy where every layer has its own rank, given by name; 0 where a name is missing."""
    total = sum(layer.delta_norm**2 for layer in layers)
    return sum(layer.kept(ranks.get(layer.linear.name, 0)) for layer in layers) / total if total else 1.0


def do_ranks_differ(layers: Sequence[LayerSpectrum], ranks: Mapping[str, int]) -> bool:
    """Say whether layers have other ranks than one for all would give, or all that a smaller layer has."""
    largest = max(ranks.values(), default=0)
    return any(ranks.get(layer.linear.name, 0) != layer.linear.rank(largest) for layer in layers)


def energy_at_most(layers: Sequence[LayerSpectrum], rank: int) -> float:
    """Return an upper bound on the energy that also holds beyond the known triplets."""
    total = sum(layer.delta_norm**2 for layer in layers)
    return sum(layer.kept_at_most(rank) for layer in layers) / total if total else 1.0


def known_rank(layers: Sequence[LayerSpectrum], rank: int) -> int:
    """Return the largest rank, up to `rank`, at which the energy is known and not only bounded from below."""
    return min((layer.known for layer in layers if not layer.is_complete), default=rank)


def rank_for(layers: Sequence[LayerSpectrum], share: float, largest: int) -> int | None:
    """Return the smallest uniform rank whose pooled energy reaches `share`; None if `largest` does not."""
    ranks = range(1, largest + 1)
    place = bisect_left(ranks, share, key=lambda rank: energy(layers, rank))
    return ranks[place] if place < len(ranks) else None


def uniform_rank(layers: Sequence[LayerSpectrum], parameters: int) -> int:
    """Return the largest rank that costs no more than `parameters` if every layer has it; 0 if rank 1 costs more."""
    largest = max((min(layer.linear.out_features, layer.linear.in_features) for layer in layers), default=0)
    ranks = range(1, largest + 1)
    return bisect_left(ranks, True, key=lambda rank: sum(layer.parameters(rank) for layer in layers) > parameters)


def gain_share(gains: Sequence[FunctionalGain], loss: float) -> float | None:
    """Return the share of the tuned model's gain in loss over the base; None if there is no gain to share out."""
    losses = {gain.label: gain.loss for gain in gains}
    gained = losses.get("base", math.nan) - losses.get("tuned", math.nan)
    return (losses["base"] - loss) / gained if math.isfinite(gained) and gained > 0 else None


def _ratio(part: float, whole: float) -> float:
    return part / whole if part else 0.0
