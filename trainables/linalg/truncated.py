"""The leading singular triplets of one layer's change. The seam: whoever factorises a matrix calls this function.

The route taken here is the exact one, a full SVD cut off at the rank. A faster route with an error certificate
replaces the body; what it must keep is the contract below.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.linalg.factors import Factors


def truncated_svd(delta: Tensor, rank: int) -> Factors:
    """Return the leading `rank` singular triplets of `delta` (out, in), in fp32, on its device.

    U and V have orthonormal columns also where singular values are zero, so a zero matrix gives zero factors that
    still train. U diag(S) V^T is the best approximation of that rank in the Frobenius norm (Eckart & Young, 1936).
    Raises ValueError unless 1 <= rank <= min(out, in).
    """
    if not 1 <= rank <= min(delta.shape):
        raise ValueError(f"rank {rank} of a {delta.shape[0]}x{delta.shape[1]} matrix")
    u, s, vt = torch.linalg.svd(delta.float(), full_matrices=False)
    return Factors(u[:, :rank], s[:rank], vt[:rank])
