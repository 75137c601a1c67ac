"""How many singular triplets each layer keeps: by number, by energy, by error, or as many as a budget pays for.

Energy is the sum of kept sigma^2 over ||dW||_F^2, and the relative error in the Frobenius norm sqrt(1 - energy): an
energy of 0.85 is an error of 0.39. A criterion is asked before the factorisation how many triplets to begin with, and
after it which layers need more of them before it can decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from pydantic import Field

from trainables.base import Config, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainables.export.spectrum import LayerSpectrum
    from trainables.targets import Linear

FIRST = 32
"""Triplets to begin with where the energy decides; a layer that needs more is given more."""
ROUNDING = 1e-9
"""An energy counts as reached within this: below what factors in fp32 hold, above the rounding of sums in fp64."""


class Ranks(Protocol):
    """A criterion that gives every layer its rank."""

    def first(self, linears: Sequence[Linear]) -> Mapping[str, int]:
        """Return how many triplets of each layer to compute at first, by layer name; no more than a layer has.

        `linears` is all that will be factorised. Raises InputError for a criterion that no rank of these can meet.
        """

    def unfinished(self, layers: Sequence[LayerSpectrum]) -> list[str]:
        """Return the names of the layers whose known triplets are too few to decide; never one that is complete.

        To be asked of each layer alone, once it is factorised, and of all layers together at the end, until nothing
        is unfinished. A criterion that weighs layers against each other has nothing to say about one alone: [].
        """

    def split(self, layers: Sequence[LayerSpectrum]) -> dict[str, int]:
        """Return every layer's rank, 0 where a layer gets none; to be asked once nothing is unfinished."""


class ByRank(Config):
    """The same rank for every layer, or all that a smaller layer has."""

    rank: int = Field(ge=1, description="singular triplets of every layer")

    @property
    def said(self) -> str:
        """The criterion in words."""
        return f"rank {self.rank}"

    def first(self, linears: Sequence[Linear]) -> dict[str, int]:
        """Return the rank itself, capped by what a layer has."""
        return {linear.name: linear.rank(self.rank) for linear in linears}

    def unfinished(self, layers: Sequence[LayerSpectrum]) -> list[str]:
        """Return the layers that have fewer triplets than they can have of the rank."""
        return [layer.linear.name for layer in layers if len(layer.sigma) < layer.linear.rank(self.rank)]

    def split(self, layers: Sequence[LayerSpectrum]) -> dict[str, int]:
        """Return the rank for every layer, also for one that did not change: it is zero there, and can be trained."""
        return {layer.linear.name: layer.linear.rank(self.rank) for layer in layers}


class ByEnergy(Config):
    """The smallest rank of each layer that keeps this share of its own ||dW||_F^2; none where nothing changed."""

    energy: float = Field(gt=0, lt=1, description="share of ||dW||_F^2 (sum of sigma^2) that each layer keeps")

    @property
    def said(self) -> str:
        """The criterion in words, with the error that it amounts to."""
        return f"energy {self.energy:g} of each layer (a relative error of {math.sqrt(1 - self.energy):.3g})"

    def first(self, linears: Sequence[Linear]) -> dict[str, int]:
        """Return a few triplets of each layer."""
        return {linear.name: linear.rank(FIRST) for linear in linears}

    def unfinished(self, layers: Sequence[LayerSpectrum]) -> list[str]:
        """Return the layers whose triplets do not certainly hold the energy yet, unless they are all there are."""
        return [
            layer.linear.name
            for layer in layers
            if not is_complete(layer) and smallest_rank(layer, self.energy) is None
        ]

    def split(self, layers: Sequence[LayerSpectrum]) -> dict[str, int]:
        """Return the smallest ranks that keep the energy by the certified lower bounds."""
        ranks = {layer.linear.name: smallest_rank(layer, self.energy) for layer in layers}
        return {
            layer.linear.name: len(layer.sigma) if rank is None else rank
            for layer, rank in zip(layers, ranks.values(), strict=True)
        }


class ByError(Config):
    """The smallest rank of each layer whose ||dW - dW_r||_F is at most this share of ||dW||_F."""

    error: float = Field(gt=0, lt=1, description="||dW - dW_r||_F / ||dW||_F that each layer may lose")

    @property
    def as_energy(self) -> ByEnergy:
        """The same criterion as an energy, 1 - error^2."""
        return ByEnergy(energy=1 - self.error**2)

    @property
    def said(self) -> str:
        """The criterion in words, with the energy that it amounts to."""
        return f"a relative error of {self.error:g} for each layer (energy {1 - self.error**2:.4g})"

    def first(self, linears: Sequence[Linear]) -> dict[str, int]:
        """Return a few triplets of each layer."""
        return self.as_energy.first(linears)

    def unfinished(self, layers: Sequence[LayerSpectrum]) -> list[str]:
        """Return the layers whose error is not certainly as small yet, unless they are complete."""
        return self.as_energy.unfinished(layers)

    def split(self, layers: Sequence[LayerSpectrum]) -> dict[str, int]:
        """Return the smallest ranks with an error as small."""
        return self.as_energy.split(layers)


class ByBudget(Config):
    """The ranks that keep most of ||dW||_F^2, over all layers together, for a number of adapter parameters.

    A rank costs a layer out + in parameters and brings it sigma_i^2. Taking the triplets of all layers in the order
    of sigma_i^2 / (out + in), as long as they fit, takes the leading ones of each layer, because sigma falls within a
    layer and the price does not change. It is the greedy solution of a knapsack: what it took before the first
    triplet that did not fit, and that triplet's fitting part, are the best that fractions of triplets could do
    (Dantzig, 1957), so the best whole ranks keep at most one such triplet's sigma^2 more. Where one rank for all
    layers, topped up in the same order, keeps more than that, it is taken instead.
    """

    parameters: int = Field(ge=1, description="adapter parameters: the sum of rank x (out + in) over the layers")

    @property
    def said(self) -> str:
        """The criterion in words."""
        return f"a budget of {self.parameters:,} parameters"

    def first(self, linears: Sequence[Linear]) -> dict[str, int]:
        """Return twice the rank that the budget pays for in all layers alike; all of it where there is one layer.

        Raises InputError if the budget does not pay for rank 1 of the smallest layer.
        """
        cheapest = min(linears, key=_price)
        if self.parameters < _price(cheapest):
            raise InputError(
                f"a budget of {self.parameters} parameters is below rank 1 of the smallest layer, {cheapest.name}: "
                f"{_price(cheapest)} at least, and {sum(map(_price, linears))} for rank 1 of all {len(linears)} layers"
            )
        wanted = self.parameters if len(linears) == 1 else max(2 * self._uniform(linears), FIRST)
        return {linear.name: linear.rank(max(1, min(wanted, self.parameters // _price(linear)))) for linear in linears}

    def unfinished(self, layers: Sequence[LayerSpectrum]) -> list[str]:
        """Return the layers of which all known triplets are taken, and whose next one may be worth its price too."""
        if len(layers) < 2:
            return []
        ranks = self.split(layers)
        left = self.parameters - parameters(layers, ranks)
        taken = [(layer, rank) for layer in layers if (rank := ranks[layer.linear.name])]
        worst = min((_values(layer)[rank - 1] / _price(layer.linear) for layer, rank in taken), default=0.0)

        def is_wanted(layer: LayerSpectrum) -> bool:
            price = _price(layer.linear)
            return price <= left or (
                (len(layer.sigma) + 1) * price <= self.parameters and _most_next(layer) / price > worst
            )

        exhausted = [layer for layer in layers if ranks[layer.linear.name] == len(layer.sigma)]
        open_ended = [layer for layer in exhausted if not is_complete(layer) and _most_next(layer) > 0]
        return [layer.linear.name for layer in open_ended if is_wanted(layer)]

    def split(self, layers: Sequence[LayerSpectrum]) -> dict[str, int]:
        """Return the ranks; a layer whose leading triplet is worth less than others cost gets none."""
        linears = [layer.linear for layer in layers]
        alike = self._uniform(linears)
        none = dict.fromkeys((linear.name for linear in linears), 0)
        uniform = {layer.linear.name: min(layer.linear.rank(alike), _changed(layer)) for layer in layers}
        return max((self._filled(layers, start) for start in (none, uniform)), key=lambda ranks: kept(layers, ranks))

    def _uniform(self, linears: Sequence[Linear]) -> int:
        """Return the largest rank, capped layer by layer, that the budget pays for in all layers; 0 if none."""
        low, high = 0, max(linear.rank(self.parameters) for linear in linears)
        while low < high:
            middle = (low + high + 1) // 2
            cost = sum(linear.rank(middle) * _price(linear) for linear in linears)
            low, high = (middle, high) if cost <= self.parameters else (low, middle - 1)
        return low

    def _filled(self, layers: Sequence[LayerSpectrum], start: Mapping[str, int]) -> dict[str, int]:
        """Return `start` with the best further triplets for what it leaves of the budget."""
        import numpy as np

        ranks = dict(start)
        left = self.parameters - parameters(layers, ranks)
        values = [_values(layer)[ranks[layer.linear.name] : _changed(layer)] for layer in layers]
        densities = np.concatenate([part / _price(layer.linear) for part, layer in zip(values, layers, strict=True)])
        owners = np.repeat(np.arange(len(layers)), [len(part) for part in values])
        for index in np.argsort(-densities, kind="stable"):
            linear = layers[owners[index]].linear
            if _price(linear) <= left:
                ranks[linear.name] += 1
                left -= _price(linear)
        return ranks


Criterion: TypeAlias = ByRank | ByEnergy | ByError | ByBudget
"""The criteria a user can choose from; each excludes the others."""


def is_complete(layer: LayerSpectrum) -> bool:
    """Say whether all singular values of the layer are known."""
    return len(layer.sigma) == min(layer.linear.out_features, layer.linear.in_features)


def smallest_rank(layer: LayerSpectrum, energy: float) -> int | None:
    """Return the smallest rank that certainly keeps this share of the layer's ||dW||_F^2; None if none known does.

    Decided by the certificate's lower bounds. A layer that did not change needs rank 0.
    """
    import numpy as np

    total = layer.delta_norm**2
    if not total:
        return 0
    reached = np.cumsum(np.square(layer.certificate.lower)) >= (energy - ROUNDING) * total
    return int(np.argmax(reached)) + 1 if reached.any() else None


def kept(layers: Iterable[LayerSpectrum], ranks: Mapping[str, int]) -> float:
    """Return the sum of kept sigma^2 over all layers."""
    return sum(layer.kept(ranks[layer.linear.name]) for layer in layers)


def parameters(layers: Iterable[LayerSpectrum], ranks: Mapping[str, int]) -> int:
    """Return the number of parameters of an adapter with these ranks."""
    return sum(ranks[layer.linear.name] * _price(layer.linear) for layer in layers)


def _price(linear: Linear) -> int:
    return linear.out_features + linear.in_features


def _values(layer: LayerSpectrum) -> NDArray[np.float64]:
    """Return sigma^2, never rising: rounding must not put a later triplet before an earlier one."""
    import numpy as np

    values: NDArray[np.float64] = np.minimum.accumulate(np.square(layer.sigma))
    return values


def _changed(layer: LayerSpectrum) -> int:
    """Return the number of known singular values that are not zero."""
    return int((layer.sigma > 0).sum())


def _most_next(layer: LayerSpectrum) -> float:
    """Return the most that the next sigma^2 of a layer can be: no more than the last one, nor than what is left."""
    rest = layer.delta_norm**2 * (1 + ROUNDING) - float(_values(layer).sum())
    return max(0.0, min(rest, float(_values(layer)[-1]))) if len(layer.sigma) else max(0.0, rest)
