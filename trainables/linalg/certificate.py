"""What is known for certain of the singular values that a factorisation kept, and how it came to be known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Route: TypeAlias = Literal["zero", "golub-kahan", "gram", "exact"]

SMALL, FLOOR = 1e-2, 1e-1
"""A value below `SMALL` of the largest, of less than a ten-thousandth of its energy, is asked for absolutely only: its
error counts relative to `FLOOR` of the largest. dW is a difference of fp32 numbers a thousand times larger, and its own
rounding is of that size."""


@dataclass(frozen=True)
class Certificate:
    """Bounds on the kept singular values sigma_1 >= ... >= sigma_r of one matrix: lower <= sigma <= upper, in fp64.

    `route` is the algorithm that gave the factors, `products` the number of vectors that were multiplied by the
    matrix or its transpose, the bounds' included. `failure_probability` is the chance, over the random numbers drawn
    for this factorisation, that a bound is wrong, whatever the matrix if it was not made with their seed in mind; 0
    where the bounds do not rest on chance. S and the factors are rounded to fp32 after all that.
    """

    route: Route
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    products: int
    failure_probability: float

    @property
    def bound(self) -> float:
        """The largest error that a kept singular value can have, relative to its upper bound; small ones: `SMALL`."""
        return relative(self.lower, self.upper)


def relative(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> float:
    """Return the largest (upper - lower) / upper of bounds in descending order; small values as `SMALL` says."""
    if not len(upper) or not upper[0]:
        return 0.0
    scale = np.where(upper >= SMALL * upper[0], upper, FLOOR * upper[0])
    return float(np.max((upper - lower) / scale))
