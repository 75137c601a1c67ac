"""The leading singular triplets of one layer's change. The seam: whoever factorises a matrix calls this function.

The route taken here is the exact one, a full SVD cut off at the rank. A faster route with an error certificate
replaces the body; what it must keep is the contract below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables.linalg.certificate import Certificate
from trainables.linalg.factors import Factors

TOLERANCE = 1e-4
"""Relative error of a kept singular value that a certificate must exclude."""


@dataclass(frozen=True)
class Factorisation:
    """The leading singular triplets of a matrix, and what is certain of them."""

    factors: Factors
    certificate: Certificate


def truncated_svd(delta: Tensor, rank: int, *, tolerance: float = TOLERANCE) -> Factorisation:
    """Return the leading `rank` singular triplets of `delta` (out, in), in fp32, on its device, with their bounds.

    U and V have orthonormal columns also where singular values are zero, so a zero matrix gives zero factors that
    still train. U diag(S) V^T is the best approximation of that rank in the Frobenius norm (Eckart & Young, 1936).
    Raises ValueError unless 1 <= rank <= min(out, in).
    """
    if not 1 <= rank <= min(delta.shape):
        raise ValueError(f"rank {rank} of a {delta.shape[0]}x{delta.shape[1]} matrix")
    u, s, vt = torch.linalg.svd(delta.double(), full_matrices=False)
    sigma = s[:rank].cpu().numpy().astype(np.float64)
    slack = min(delta.shape) * np.finfo(np.float64).eps * (sigma[0] if len(sigma) else 0.0)
    certificate = Certificate("exact", np.maximum(sigma - slack, 0), sigma + slack, 0, 0.0)
    return Factorisation(Factors(u[:, :rank].float(), s[:rank].float(), vt[:rank].float()), certificate)
