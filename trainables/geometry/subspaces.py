"""How alike subspaces are, and leading singular vectors of weights."""

from __future__ import annotations

import torch
from torch import Tensor

NEGLIGIBLE = 1e-6
"""A singular value below this share of the largest is rounding: its vector is no direction of the change."""


def overlap(first: Tensor, second: Tensor) -> float:
    """Return the mean squared cosine of the principal angles: 1 if one subspace holds the other, 0 if orthogonal.

    `first` (n, p) and `second` (n, q) are orthonormal bases, in columns. The cosines are the singular values of
    first^T second (Björck & Golub 1973, Numerical methods for computing angles between linear subspaces, Math. Comp.
    27, theorem 1), and their squares sum up to its squared norm: ||first^T second||_F^2 / min(p, q). Of two random
    subspaces, max(p, q) / n is expected. Raises ValueError for an empty basis, which has no angle to anything.
    """
    if not first.shape[1] or not second.shape[1]:
        raise ValueError("an empty subspace has no angles to another")
    squared = float((first.double().T @ second.double()).square().sum())
    return min(1.0, squared / min(first.shape[1], second.shape[1]))


def leading_left(matrix: Tensor, count: int) -> Tensor:
    """Return the leading `count` left singular vectors (m, count) of a matrix (m, n), in fp64, by descending values.

    They are eigenvectors of A A^T in fp64, or A times those of A^T A where that is smaller. On a CPU only half the
    product is computed, and only the wanted vectors (bisection and MRRR, `?syevr`): a third of the time. Squaring costs
    half the digits, so this is for weights, whose values decay slowly; see `linalg.truncated` for changes.
    Raises ValueError if count > min(m, n).
    """
    if count > min(matrix.shape):
        raise ValueError(f"{count} singular vectors of a {matrix.shape[0]}x{matrix.shape[1]} matrix")
    double = matrix.double()
    if matrix.shape[0] <= matrix.shape[1]:
        return _leading_eigenvectors(double, count)
    left = double @ _leading_eigenvectors(double.T, count)
    norms = torch.linalg.vector_norm(left, dim=0)
    return left / torch.where(norms > 0, norms, 1.0)


def _leading_eigenvectors(wide: Tensor, count: int) -> Tensor:
    """Return the leading eigenvectors (m, count) of A A^T for a wide fp64 matrix A (m, n)."""
    if wide.device.type == "cuda":
        vectors: Tensor = torch.linalg.eigh(wide @ wide.T)[1]
        return vectors[:, -count:].flip(1)
    from scipy.linalg import eigh
    from scipy.linalg.blas import dsyrk

    array = wide.numpy()
    # Either order in memory is Fortran's of the matrix or of its transpose, so BLAS copies nothing.
    is_rows = array.flags.c_contiguous
    lower = dsyrk(1.0, array.T, trans=1, lower=1) if is_rows else dsyrk(1.0, array, lower=1)
    found = eigh(lower, lower=True, subset_by_index=[len(wide) - count, len(wide) - 1], driver="evr")[1]
    return torch.from_numpy(found).flip(1)


def directions(vectors: Tensor, values: Tensor) -> Tensor:
    """Return those columns of `vectors` (n, r) whose singular values (r, descending) are more than rounding."""
    known = int((values > NEGLIGIBLE * values[:1]).sum()) if values.numel() and bool(values[0] > 0) else 0
    return vectors[:, :known]
