"""Block Golub-Kahan bidiagonalisation: two orthonormal bases between which a matrix is small and banded.

For a matrix A (m, n) and a random start, the block recurrence (Golub & Kahan 1965; Golub, Luk & Overton 1981;
Golub & Van Loan, 4th ed., 10.4) gives, after k blocks of b vectors,

    U A = M V        with U (k b, m) and V ((k + 1) b, n), vectors in rows, and M (k b, (k + 1) b) block bidiagonal.

The singular values of M converge from below to the leading ones of A, all ranks at once, and the last block of M
says how far they still are. Vectors are kept as rows because a short wide matrix times a large one is what BLAS does
fastest (66 against 55 GFLOP/s at width 32), in fp32; Gram matrices, Cholesky factors and M are fp64, as is every
decision. Both bases are reorthogonalised in full against all earlier blocks: without it, copies of converged
triplets come back (Parlett 1998, ch. 13).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

Product: TypeAlias = Callable[[Tensor], Tensor]

WELL_CONDITIONED = 10.0
"""Up to this ratio of a Cholesky factor's pivots one pass leaves rows orthonormal to a few fp32 roundings."""
MOSTLY_OUTSIDE = 0.1
"""A block with more than this share of it in the basis is projected twice, or defects of the basis would multiply."""
DEFICIENT = 5e-7
"""A direction with less than this share of the longest is rounding: a random one takes its place."""
VANISHING = 1e-30
"""The inverse of a smaller pivot would not do in fp32."""


@dataclass
class Bidiagonalisation:
    """The bases of a matrix that is known only through two products, grown block by block.

    `forward` maps rows (b, n) to rows times A^T (b, m), `backward` rows (b, m) to rows times A (b, n). `start` is
    the first block (b, n) before it is made orthonormal. `products` counts the vectors multiplied so far.
    """

    forward: Product
    backward: Product
    start: Tensor
    dimension: int
    largest: int
    generator: torch.Generator
    products: int = 0
    blocks: int = 0
    _u: Tensor = field(init=False)
    _v: Tensor = field(init=False)
    _m: Tensor = field(init=False)

    def __post_init__(self) -> None:
        width, n = self.start.shape
        new = self.start.new_empty
        self._u, self._v = new(self.largest * width, self.dimension), new((self.largest + 1) * width, n)
        self._m = self.start.new_zeros(self.largest * width, (self.largest + 1) * width, dtype=torch.float64)
        self._v[:width], _ = orthonormalise(self.start, self._v[:0], self.generator)

    @property
    def width(self) -> int:
        """The number of vectors in a block."""
        return len(self.start)

    @property
    def u(self) -> Tensor:
        """The left basis (k b, m), in rows."""
        return self._u[: self.blocks * self.width]

    @property
    def v(self) -> Tensor:
        """The right basis ((k + 1) b, n), in rows."""
        return self._v[: (self.blocks + 1) * self.width]

    @property
    def matrix(self) -> Tensor:
        """M (k b, (k + 1) b), fp64: U A = M V up to rounding."""
        rows = self.blocks * self.width
        return self._m[:rows, : rows + self.width]

    @property
    def square(self) -> Tensor:
        """M without its last block of columns (k b, k b): U A V^T for the V of the first k blocks."""
        rows = self.blocks * self.width
        return self._m[:rows, :rows]

    @property
    def residual(self) -> Tensor:
        """The last block of columns (k b, b) of M: what couples the bases to the rest of the matrix."""
        rows = self.blocks * self.width
        return self._m[:rows, rows : rows + self.width]

    def grow(self) -> None:
        """Add one block to either basis, for two products with the matrix."""
        self.grow_left()
        self.grow_right()

    def grow_left(self) -> None:
        """Add a block to U: U_j R = V_j A^T - (its part in U_{j-1})."""
        low, high = self.blocks * self.width, (self.blocks + 1) * self.width
        rows = self.forward(self._v[low:high])
        if self.blocks:
            earlier = slice(low - self.width, low)
            rows -= self._m[earlier, low:high].T.to(rows.dtype) @ self._u[earlier]
        self._u[low:high], factor = orthonormalise(rows, self._u[:low], self.generator)
        self._m[low:high, low:high] = factor.T
        self.blocks += 1
        self.products += self.width

    def grow_right(self) -> None:
        """Add a block to V: L V_{j+1} = U_j A - (its part in V_j)."""
        low, high = (self.blocks - 1) * self.width, self.blocks * self.width
        rows = self.backward(self._u[low:high])
        rows -= self._m[low:high, low:high].to(rows.dtype) @ self._v[low:high]
        new = slice(high, high + self.width)
        self._v[new], factor = orthonormalise(rows, self._v[:high], self.generator)
        self._m[low:high, new] = factor
        self.products += self.width


def orthonormalise(rows: Tensor, basis: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return Q (b, d), orthonormal rows orthogonal to `basis` (k, d), and L (b, b) in fp64 with rows ~= L Q.

    `rows` should be nearly orthogonal to the basis already, up to rounding: their part in it is removed, not returned.
    Cholesky QR with the Gram matrix in fp64 (Yamamoto et al. 2015), a second time where the first was not well
    conditioned ("twice is enough": Giraud et al. 2005); rows that are dependent are completed by random directions.
    """
    factor = identity = torch.eye(len(rows), dtype=torch.float64, device=rows.device)
    for _ in range(2):
        inside = rows @ basis.T
        rows = rows - inside @ basis
        double = rows.double()
        lower, failed = torch.linalg.cholesky_ex(double @ double.T)
        least, most = (float(pivot) for pivot in lower.diagonal().aminmax())
        if failed or not least > max(DEFICIENT * most, VANISHING):
            rest, lower = _complete(rows, basis, generator)
            return rest, factor @ lower
        rows = torch.linalg.solve_triangular(lower, identity, upper=False).to(rows.dtype) @ rows
        factor = factor @ lower
        if most < WELL_CONDITIONED * least and float(torch.linalg.vector_norm(inside)) < MOSTLY_OUTSIDE * most:
            break
    return rows, factor


def _complete(rows: Tensor, basis: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Orthonormalise dependent rows: their principal directions, random ones where those are missing; L is not lower.

    Directions in the order of the rows (QR without pivoting) would not do: behind a row that depends on those before
    it comes an arbitrary direction, and later rows have a part in that. Rows of rounding that lie in the basis count as
    missing.
    """
    longest = float(rows.double().square().sum(dim=1).max())
    double = (rows - (rows @ basis.T) @ basis).double()
    squares, axes = torch.linalg.eigh(double @ double.T)
    squares, axes = squares.flip(0), axes.flip(1)
    known = squares > DEFICIENT**2 * max(longest, torch.finfo(torch.float64).tiny)
    norms = torch.where(known, squares, 1.0).sqrt()
    factor = torch.where(known, axes * norms, 0.0)
    fresh = random_rows(len(rows), rows.shape[1], generator, double)
    directions = torch.where(known[:, None], axes.T @ double / norms[:, None], fresh).to(rows.dtype)
    for _ in range(3):
        directions = directions - (directions @ basis.T) @ basis
        q, r = torch.linalg.qr(directions.double().T)
        directions, factor = q.T.to(rows.dtype), factor @ r.T
    return directions, factor


def random_rows(count: int, dimension: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Return Gaussian rows with dtype and device of `like`; the numbers come from the CPU, the same on any device."""
    return torch.randn(count, dimension, generator=generator, dtype=torch.float32).to(like)
