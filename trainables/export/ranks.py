"""How many singular triplets each layer keeps: by number, by energy, by error, or as many as a budget pays for.

Energy is the sum of kept sigma^2 over ||dW||_F^2, and the relative error in the Frobenius norm sqrt(1 - energy): an
energy of 0.85 is an error of 0.39. A criterion is asked before the factorisation how many triplets to begin with, and
after it which layers need more of them before it can decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trainables.export.spectrum import LayerSpectrum
    from trainables.targets import Linear


class Ranks(Protocol):
    """A criterion that gives every layer its rank."""

    def first(self, linears: Sequence[Linear]) -> Mapping[str, int]:
        """Return how many triplets of each layer to compute at first, by layer name; no more than a layer has."""

    def unfinished(self, layers: Sequence[LayerSpectrum]) -> list[str]:
        """Return the names of the layers whose known triplets are too few to decide."""

    def split(self, layers: Sequence[LayerSpectrum]) -> dict[str, int]:
        """Return every layer's rank, 0 where a layer gets none; to be asked once nothing is unfinished."""
