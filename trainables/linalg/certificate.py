"""What is known for certain of the singular values that a factorisation kept, and how it came to be known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Route: TypeAlias = Literal["zero", "golub-kahan", "gram", "exact"]


@dataclass(frozen=True)
class Certificate:
    """Bounds on the kept singular values sigma_1 >= ... >= sigma_r of one matrix: lower <= sigma <= upper, in fp64.

    `route` is the algorithm that gave the factors, `products` the number of vectors that were multiplied by the
    matrix or its transpose. `failure_probability` is the chance, over the random numbers drawn for this
    factorisation and whatever the matrix, that an upper bound is wrong; 0 where the bounds do not rest on chance.
    """

    route: Route
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    products: int
    failure_probability: float

    @property
    def bound(self) -> float:
        """The largest relative error that a kept singular value can have, (upper - lower) / upper; 0 for zeros."""
        known = self.upper > 0
        return float(np.max((self.upper - self.lower)[known] / self.upper[known], initial=0.0))
