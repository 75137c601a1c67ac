"""The leading singular triplets of one layer's change, with bounds on what they can be wrong by.

Four routes, the first that serves is taken, and the certificate says which it was:

zero          nothing changed
golub-kahan   block Golub-Kahan in fp32, in a few dozen passes over the matrix; bounds from `bounds`
gram          eigenvalues of A A^T in fp64, where the matrix is small, or where the values decay too slowly for
              the first route (a change that is mostly rounding noise does)
exact         a full SVD in fp64, where squaring the matrix would lose too much

A route that cannot bound every kept singular value to the tolerance is not believed: the next one is taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables.linalg import bounds
from trainables.linalg.certificate import FLOOR, SMALL, Certificate, Route
from trainables.linalg.factors import Factors
from trainables.linalg.golub_kahan import Bidiagonalisation, random_rows

TOLERANCE = 1e-4
"""Relative error of a kept singular value that a certificate must exclude."""
SEED = 20110614
FIRST_BASIS = 3.25
"""Vectors in a basis, per triplet wanted, before convergence is looked at."""
LARGEST_BASIS = 6
SMALL_BASIS = 192
LARGEST_SHARE = 0.5
"""Bases of more vectors than so many per triplet, or altogether, and of more than this share of the smaller side, do
not pay."""
LARGE = 1 << 22
"""Elements of a matrix from which on a product with it costs more than what is done between two."""
SURE = 0.02
"""The share of the tolerance at which an estimated error makes a certificate likely: the block or two that this takes
cost a tenth of a certificate that is refused."""
MOST_ATTEMPTS = 3
SAFE_TO_SQUARE = 1e-4
"""Down to this ratio of singular values, squaring in fp64 keeps eight digits of them and of their vectors."""
TINY = 1e-12
"""A singular vector of a value below this share of the largest is rounding."""
SAFE_SCALE = 1e-12
"""Elements between this and its inverse neither overflow nor vanish in fp32 products."""
EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Factorisation:
    """The leading singular triplets of a matrix, and what is certain of them."""

    factors: Factors
    certificate: Certificate


def truncated_svd(delta: Tensor, rank: int, *, tolerance: float = TOLERANCE) -> Factorisation:
    """Return the leading `rank` singular triplets of `delta` (out, in), in fp32, on its device, with their bounds.

    Every kept singular value is bounded to `tolerance` relative to itself; one below a hundredth of the largest, to
    a tenth of `tolerance` relative to the largest. `delta` counts as its fp32 values. U and V have orthonormal columns
    also where singular values are zero, so a zero matrix gives zero factors that still train. U diag(S) V^T is the
    best approximation of that rank in the Frobenius norm (Eckart & Young 1936) up to the bounds; its error is
    sqrt(||delta||_F^2 - sum S^2). The same matrix gives the same result: random vectors come from a fixed seed.
    Raises ValueError unless 1 <= rank <= min(out, in) and 0 < tolerance, and for NaN or infinity in fp32.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance {tolerance} is not positive")
    if not 1 <= rank <= min(delta.shape):
        raise ValueError(f"rank {rank} of a {delta.shape[0]}x{delta.shape[1]} matrix")
    is_tall = delta.shape[0] > delta.shape[1]
    wide = (delta.T if is_tall else delta).float()
    largest = float(torch.linalg.vector_norm(wide, math.inf))
    if not math.isfinite(largest):
        raise ValueError(f"a {delta.shape[0]}x{delta.shape[1]} matrix with NaN or infinity has no singular values")
    with full_precision():
        found = _wide(wide, rank, largest, tolerance)
    if is_tall:
        u, s, vt = found.factors.u, found.factors.s, found.factors.vt
        return Factorisation(Factors(vt.T, s, u.T), found.certificate)
    return found


def _wide(matrix: Tensor, rank: int, largest: float, tolerance: float) -> Factorisation:
    """Factorise a matrix (m, n), m <= n, by the first route whose certificate holds."""
    if largest == 0:
        return _zero(matrix, rank)
    scale = 1.0 if SAFE_SCALE < largest < 1 / SAFE_SCALE else 2.0 ** math.frexp(largest)[1]
    unit = matrix if scale == 1.0 else (matrix.double() / scale).float()  # the inverse may be beyond fp32
    routes: tuple[Callable[[Tensor, int, float], Factorisation | None], ...] = (golub_kahan, gram)
    for route in routes:
        found = route(unit, rank, tolerance)
        if found is not None and found.certificate.bound <= tolerance:
            return _scaled(found, scale)
    return _scaled(exact(unit, rank), scale)


def golub_kahan(matrix: Tensor, rank: int, tolerance: float) -> Factorisation | None:
    """Return the triplets by block Golub-Kahan with a certificate, or None where it does not converge in time."""
    generator = torch.Generator().manual_seed(SEED)
    converged = bidiagonalise(matrix, rank, SURE * tolerance, generator)
    checked = 0
    for _ in range(MOST_ATTEMPTS):
        if converged is None:
            return None
        basis, ritz = converged
        found = bounds.verify(matrix, basis, ritz.left, tolerance, generator)
        checked += found.products
        if found.error <= tolerance:
            products = basis.products + checked
            failure = MOST_ATTEMPTS * found.failure_probability
            certificate = _certificate("golub-kahan", found.lower, found.upper, products, failure)
            sigma, order = torch.linalg.vector_norm(found.right, dim=1).sort(descending=True)
            right = orthonormal_rows(found.right[order], sigma)
            return Factorisation(Factors(found.left[order].T.float(), sigma.float(), right.float()), certificate)
        converged = _converge(basis, rank, max(0.1 * ritz.error, EPSILON))
    return None


def bidiagonalise(
    matrix: Tensor, rank: int, goal: float, generator: torch.Generator
) -> tuple[Bidiagonalisation, Ritz] | None:
    """Return bases from which `rank` triplets (m <= n) seem to have converged, and these; None if they do not in time.

    `goal` is the relative error of a singular value; what it is compared with is an estimate, not a certificate.
    """
    m, n = matrix.shape
    width = block_width(rank, m * n)
    vectors = min(max(LARGEST_BASIS * rank, SMALL_BASIS), LARGEST_SHARE * m)
    first, most = -(-FIRST_BASIS * rank // width), int(vectors) // width
    if most < first:
        return None
    start = random_rows(width, n, generator, matrix)
    basis = Bidiagonalisation(lambda v: v @ matrix.T, lambda u: u @ matrix, start, m, most, generator)
    for _ in range(int(first) - 1):
        basis.grow()
    return _converge(basis, rank, goal)


def _converge(basis: Bidiagonalisation, rank: int, goal: float) -> tuple[Bidiagonalisation, Ritz] | None:
    """Add blocks until the estimated error is at the goal; None as soon as it is clear that it will not get there."""
    errors: list[float] = []
    while basis.blocks < basis.largest:
        basis.grow()
        ritz = Ritz.of(basis, rank)
        if ritz.error <= goal:
            return basis, ritz
        errors.append(ritz.error)
        if len(errors) > 2:
            # Convergence speeds up as the bases grow: three times the rate so far is not too much to hope for.
            gained = math.log(errors[0] / errors[-1]) / (len(errors) - 1)
            if math.log(errors[-1] / goal) > 3 * gained * (basis.largest - basis.blocks):
                return None
    return None


def block_width(rank: int, elements: int) -> int:
    """Return how many vectors one pass multiplies; narrow blocks converge in fewer vectors, wide ones multiply faster.

    A quarter of the rank; half of it where a product with the matrix costs more than all that is done between two.
    """
    return max(16, min(128, rank // 2 if elements > LARGE else rank // 4))


@dataclass(frozen=True)
class Ritz:
    """Approximate singular triplets within the bases: values (r) and left vectors (k b, r), fp64."""

    values: Tensor
    left: Tensor
    right: Tensor
    error: float

    @classmethod
    def of(cls, basis: Bidiagonalisation, rank: int) -> Ritz:
        """Return the leading `rank` of them (Rayleigh-Ritz in fp64)."""
        values, left, right = _small_svd(basis.matrix, rank)
        coupling = (left.T @ basis.residual).norm(dim=1)
        scale = torch.where(values >= SMALL * values[0], values, FLOOR * values[0])
        return cls(values, left, right, float((coupling / scale).square().max()))

    def factors(self, basis: Bidiagonalisation) -> Factors:
        """Return the triplets of the matrix itself (m, n), in the precision of the bases."""
        dtype = basis.u.dtype
        return Factors(basis.u.T @ self.left.to(dtype), self.values.to(dtype), self.right.to(dtype) @ basis.v)


def _small_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return sigma (r), U (k, r) and V^T (r, n) of a small fp64 matrix (k, n), by way of squares if they allow."""
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    squares, vectors = squares.flip(0)[:rank], vectors.flip(1)[:, :rank]
    if not float(squares[-1]) > SAFE_TO_SQUARE**2 * float(squares[0]):
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        return s[:rank], u[:, :rank], vt[:rank]
    values = squares.sqrt()
    return values, vectors, (vectors.T @ matrix) / values[:, None]


def gram(matrix: Tensor, rank: int, tolerance: float) -> Factorisation | None:
    """Return the triplets from the eigenvectors of A A^T in fp64 (m, m).

    The computed eigenvalues are those of A A^T + D with ||D|| <= (n + 10 m) eps ||A||_F^2: n eps for the product
    (Higham 2002, 3.13), the rest for the symmetric eigensolver (LAPACK Users' Guide, 4.7). Deterministic.
    """
    m, n = matrix.shape
    product = torch.zeros(m, m, dtype=torch.float64, device=matrix.device)
    for part in bounds.parts(matrix):
        columns = matrix[:, part].double()
        product.addmm_(columns, columns.T)
    squares, vectors = torch.linalg.eigh(product)
    squares, vectors = squares.flip(0)[:rank], vectors.flip(1)[:, :rank]
    slack = (n + 10 * m) * EPSILON * float(product.diagonal().sum())
    lower, upper = (squares - slack).clamp_min(0).sqrt(), (squares + slack).clamp_min(0).sqrt()
    sigma = squares.clamp_min(0).sqrt()
    certificate = _certificate("gram", lower, upper, m, 0.0)
    if certificate.bound > tolerance:
        return None
    right = torch.cat([vectors.T @ matrix[:, part].double() for part in bounds.parts(matrix)], dim=1)
    right = orthonormal_rows(right, sigma)
    return Factorisation(Factors(vectors.float(), sigma.float(), right.float()), certificate)


def orthonormal_rows(rows: Tensor, norms: Tensor) -> Tensor:
    """Return orthogonal fp64 rows (r, n) of descending norms made orthonormal; those of zero get some direction."""
    is_zero = norms <= TINY * norms[0]
    unit = torch.where(is_zero[:, None], 1.0, rows) / torch.where(is_zero, 1.0, norms)[:, None]
    if bool((norms > SAFE_TO_SQUARE * norms[0]).all()):
        return unit
    generator = torch.Generator().manual_seed(SEED)
    unit = torch.where(is_zero[:, None], random_rows(len(rows), rows.shape[1], generator, rows), unit)
    q, r = torch.linalg.qr(unit.T)
    signed: Tensor = torch.where(r.diagonal() < 0, -q, q)
    return signed.T


def exact(matrix: Tensor, rank: int) -> Factorisation:
    """Return the triplets of a full SVD in fp64; backward stable: within 10 m eps of the largest value in practice.

    The last resort: its certificate stands even where the tolerance was finer than fp64 is.
    """
    v, s, ut = torch.linalg.svd(matrix.T.double(), full_matrices=False)  # LAPACK is much faster on tall matrices
    slack = 10 * len(matrix) * EPSILON * float(s[0])
    sigma = s[:rank]
    certificate = _certificate("exact", (sigma - slack).clamp_min(0), sigma + slack, len(matrix), 0.0)
    return Factorisation(Factors(ut[:rank].T.float(), sigma.float(), v[:, :rank].T.float()), certificate)


def _zero(matrix: Tensor, rank: int) -> Factorisation:
    m, n = matrix.shape
    zeros = np.zeros(rank)
    eye = torch.eye(rank, dtype=torch.float32, device=matrix.device)
    factors = Factors(eye.new_zeros(m, rank), eye.new_zeros(rank), eye.new_zeros(rank, n))
    factors.u[:rank], factors.vt[:, :rank] = eye, eye
    return Factorisation(factors, Certificate("zero", zeros, zeros, 0, 0.0))


def _scaled(found: Factorisation, scale: float) -> Factorisation:
    factors, known = found.factors, found.certificate
    certificate = dataclasses.replace(known, lower=known.lower * scale, upper=known.upper * scale)
    return Factorisation(Factors(factors.u, factors.s * scale, factors.vt), certificate)


def _certificate(route: Route, lower: Tensor, upper: Tensor, products: int, failure: float) -> Certificate:
    return Certificate(route, lower.cpu().numpy(), upper.cpu().numpy(), products, failure)


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep matrix products in true fp32, whatever the process allows its training (TF32, bf16)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
