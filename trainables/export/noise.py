"""How much of a change is mere rounding: the Frobenius norm that storing a weight in its format would produce alone.

A value stored to nearest is off by at most half the spacing of its format there (one ulp), and the error is close to
uniform between those ends, so its variance is ulp^2 / 12 (Widrow & Kollar, Quantization Noise, 2008, ch. 12); errors
of different weights add up as squares. The floor is sqrt(sum ulp(w_ij)^2 / 12): for bf16 about 1.7e-3 of ||W||, for
fp32 about 2.6e-8.

Only the tuned weight counts. What the base's file holds is where training started, exactly, whatever its format.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

COARSE_FIRST = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
EXPONENT = {torch.float32: (torch.int32, 0x7F80_0000), torch.float64: (torch.int64, 0x7FF0_0000_0000_0000)}
"""Bits of a number that hold its exponent; alone, they are the power of two at or below its absolute value."""


def noise_norm(weight: Tensor) -> float:
    """Return the rounding-noise floor of one stored tensor of any floating type; see `RoundingNoise`."""
    noise = RoundingNoise(weight.dtype)
    noise.add(weight.to(torch.promote_types(weight.dtype, torch.float32)))
    return noise.norm


class RoundingNoise:
    """The floor of one tensor, summed over its pieces, at the coarsest format that holds all its values exactly.

    A file's dtype is only the finest that counts: bf16 weights that were saved again as fp32 are still bf16 weights.
    Zeros carry no noise, since rounding moves no weight of a trained size to zero; subnormal numbers that of the
    format's smallest spacing.
    """

    def __init__(self, stored: torch.dtype) -> None:
        """Begin a tensor that its file stores as `stored`: bf16, fp16, fp32 or fp64."""
        self.squares = dict.fromkeys(COARSE_FIRST[: COARSE_FIRST.index(stored) + 1], 0.0)
        self.stored = stored

    def add(self, values: Tensor) -> None:
        """Count a piece of the tensor, given in fp32 or fp64; several times cheaper than a pass of the SVD over it."""
        for dtype in list(self.squares):
            if dtype is self.stored or torch.equal(values.to(dtype).to(values.dtype), values):
                self.squares[dtype] += _sum_of_squared_powers(values, torch.finfo(dtype).smallest_normal)
            else:
                del self.squares[dtype]

    @property
    def dtype(self) -> torch.dtype:
        """The coarsest format that holds every value seen so far."""
        return next(iter(self.squares))

    @property
    def norm(self) -> float:
        """The floor, in the unit of the weights."""
        return torch.finfo(self.dtype).eps * math.sqrt(self.squares[self.dtype] / 12)


def _sum_of_squared_powers(values: Tensor, smallest: float) -> float:
    """Return the sum of (ulp / eps)^2 in fp64: ulp is eps times the power of two below |w|, `smallest` at least."""
    integer, mask = EXPONENT[values.dtype]
    powers = (values.contiguous().view(integer) & mask).view(values.dtype)
    total = _squared_norm(powers)
    if values.numel() * smallest**2 > 1e-12 * total:  # else subnormals cannot be seen in the sum: skip two passes
        total = _squared_norm(powers.clamp_(min=smallest).mul_(values != 0))
    return total


def _squared_norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
