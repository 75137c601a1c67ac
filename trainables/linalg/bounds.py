"""From an approximate left singular basis to triplets and bounds that hold, in fp64 where it decides.

Let P (r, m) be the leading left vectors that block Golub-Kahan found, made orthonormal in fp64, and Z = P A, computed
in fp64 and rotated such that its rows are orthogonal, of norms s_1 >= ... >= s_r. These are the triplets returned.

Lower bounds. A projection enlarges no singular value (Horn & Johnson, Topics in Matrix Analysis, 3.3.1):
s_i <= sigma_i(A).

Upper bounds, three of them; the smallest counts, and the costly ones are computed only where needed.

1. Frobenius. A^T A = Z^T Z + R^T R with R = (I - P^T P) A, so by Weyl sigma_i^2 <= s_i^2 + ||R||_F^2, and
   ||R||_F^2 = ||A||_F^2 - ||Z||_F^2 is exact and free. Enough where little is left over (low rank, fast decay).
2. Contraction. With all of Golub-Kahan's bases, U A = M V with M = [B E], E belonging to the last block V' of V. Let
   C = (I - U^T U) A be what U cannot see. As A V''^T = U^T B for the blocks V'' before V', it vanishes on them,
   so in orthonormal bases, for any c >= ||C||,

       A = [ B  E 0 ]  =  [ I  0   ] [ B  E  0 ]
           [ 0   C  ]     [ 0  C/c ] [ 0   c I ]

   is a contraction times N(c), hence sigma_i(A) <= sigma_i(N(c)) (ibid., 3.3.16), and N(c) is the small matrix
   [B E; 0 c I] beside copies of c. Nothing is assumed of the spectrum; c comes from `norm_bound`.
   In floating point U A = M V + G, C V''^T = F, and the rows of U, V are orthonormal up to du (spectral norm of the
   Gram matrix less I) and dv (Frobenius norm). As C^T C <= (1 + t) c^2 on the complement of V'' + (1 + 1 / t) ||F||^2
   for any t > 0, and by Weyl and Ostrowski (1959), to first order in du and dv,

       sigma_i(A) <= (1 + du) ((1 + dv) (sigma_i(N(c sqrt(1 + t)))^2 + (1 + 1 / t) ||F||^2)^1/2 + ||G||).

   ||G|| and ||F|| are bounded by probes: they find what went wrong in either product, whatever it was.
3. Quadratic. A A^T has the blocks Z Z^T = diag(s^2), W = Z A^T (I - P^T P), and one below d^2, d >= ||R|| from the
   same N(c). By its Schur complement, sigma_i^2 <= s_i^2 + x with x (s_i^2 + x - d^2) = ||W||^2 (Li & Li, Linear
   Algebra Appl. 395, 2005): the rounding of fp32 enters d alone, so this one serves where s_r is small beside s_1.

How certain is that? The chances add up to 3 `FAILURE`, for any matrix that was not made with the seed in mind. fp64
rounding is allowed for with (m + n) eps s_1^2, many times what it is in practice, if not in the worst case (Higham &
Mary, SIAM J. Sci. Comput. 41, 2019). The fp32 rounding of what is measured in fp32 (c, F, du, dv) is not bounded a
priori: it is of the size of G and du themselves, and c is enlarged by twice their sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.linalg.certificate import relative
from trainables.linalg.golub_kahan import Bidiagonalisation, random_rows

FAILURE = 1e-9
"""The probability that is allowed to each of the three bounds that rest on random vectors."""
CHECK_WIDTH = 16
MOST_CHECK_BLOCKS = 7
PROBES = 24
LEAK_PROBES = 16
SPLIT = 1 / 32
"""The share by which c^2 is enlarged for what C does to the V where it should vanish."""
TARGET = 0.8
"""What U cannot see should be this much smaller than the last value kept: close to it, N(c) says little."""
CHUNK = 1 << 17
"""Elements of A that are converted to fp64 at a time."""
EPSILON = torch.finfo(torch.float64).eps


@dataclass
class Verified:
    """Triplets in fp64 with bounds: `left` (r, m) and `right` (r, n) in rows, the latter times their values."""

    left: Tensor
    right: Tensor
    lower: Tensor
    upper: Tensor
    products: int
    failure_probability: float

    @property
    def error(self) -> float:
        """The largest relative error that a value may have."""
        return relative(self.lower.cpu().numpy(), self.upper.cpu().numpy())


def verify(
    matrix: Tensor, basis: Bidiagonalisation, chosen: Tensor, tolerance: float, generator: torch.Generator
) -> Verified:
    """Return the triplets of A = `matrix` (m, n) for the left singular vectors `chosen` (k b, r) of M, with bounds.

    `basis` are bases of A. Bounds are sharpened until they are within the tolerance, or nothing is left to try.
    """
    start = orthonormal(chosen.T @ basis.u.double())
    probes = random_rows(PROBES, len(basis.u), generator, basis.matrix)
    right, total, gap = _products(matrix, basis, start, probes)
    squares, rotation = torch.linalg.eigh(right @ right.T)
    squares, rotation = squares.flip(0).clamp_min(0), rotation.flip(1).T
    left, right = rotation @ start, rotation @ right
    lower, upper = _frobenius(matrix, left, right, squares=squares, total=total)
    found = Verified(left, right, lower, upper, len(start) + PROBES, 0.0)
    if found.error > tolerance:
        values = squares.sqrt()
        small = Small.of(matrix, basis, values, gap, generator)
        found.products += small.products
        found.failure_probability = 3 * FAILURE
        found.upper = torch.minimum(found.upper, small.upper(len(values)))
        if found.error > tolerance:
            found.upper = torch.minimum(found.upper, _quadratic(matrix, found, values, small.rest(chosen)))
            found.products += len(start)
    return found


def orthonormal(rows: Tensor) -> Tensor:
    """Return nearly orthonormal fp64 rows made so to rounding."""
    for _ in range(2):
        rows = torch.linalg.solve_triangular(torch.linalg.cholesky(rows @ rows.T), rows, upper=False)
    return rows


def _products(matrix: Tensor, basis: Bidiagonalisation, left: Tensor, probes: Tensor) -> tuple[Tensor, float, float]:
    """Return P A (r, n) in fp64, ||A||_F^2, and a bound on the norm of G = U A - M V from probes."""
    rows = torch.cat([left, probes @ basis.u.double()])
    small = probes @ basis.matrix
    right = left.new_empty(len(left), matrix.shape[1])
    squares, total = probes.new_zeros(len(probes)), 0.0
    for part in parts(matrix):
        columns = matrix[:, part].double()
        total += float(torch.linalg.vector_norm(columns)) ** 2
        product = rows @ columns
        right[:, part] = product[: len(left)]
        squares += (product[len(left) :] - small @ basis.v[:, part].double()).square().sum(dim=1)
    return right, total, probed_norm(squares.sqrt())


def probed_norm(norms: Tensor) -> float:
    """Return a bound on ||G|| from the norms (p) of w^T G for p Gaussian vectors w (Halko et al. 2011, lemma 4.1).

    |w^T G| >= ||G|| |w_1| with w_1 standard normal, and |w_1| < t has a chance below t sqrt(2 / pi). So all p norms are
    below ||G|| t with a chance below (t sqrt(2 / pi))^p, which is made `FAILURE`.
    """
    return float(norms.max()) * math.sqrt(2 / math.pi) * math.pow(FAILURE, -1 / len(norms))


def _frobenius(matrix: Tensor, left: Tensor, right: Tensor, *, squares: Tensor, total: float) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds from norms alone, with room for the rounding of fp64.

    The norm of what is left over is a difference of squares; where that is all rounding, it is computed itself.
    """
    slack = (sum(matrix.shape) + 10 * len(squares)) * EPSILON
    left_over = total - float(squares.sum())
    if left_over < 1e3 * slack * total:
        left_over = sum(
            float((matrix[:, part].double() - left.T @ right[:, part]).square().sum()) for part in parts(matrix)
        )
    slack *= float(squares[0])
    return (squares - slack).clamp_min(0).sqrt(), (squares + left_over + slack).sqrt()


def parts(matrix: Tensor) -> Iterator[slice]:
    """Yield the columns of a matrix in slices of at most `CHUNK` elements."""
    step = max(1, CHUNK // len(matrix))
    return (slice(low, low + step) for low in range(0, matrix.shape[1], step))


@dataclass(frozen=True)
class Small:
    """N(c) without its copies of c, as `whole` (k b + b, k b + b), and what rounding adds to its singular values.

    `unseen` is its c, `rounding` and `leak` bound ||G|| and ||F||.
    """

    whole: Tensor
    unseen: float
    factor: float
    rounding: float
    shift: float
    leak: float
    products: int

    @classmethod
    def of(
        cls, matrix: Tensor, basis: Bidiagonalisation, values: Tensor, rounding: float, generator: torch.Generator
    ) -> Small:
        """Measure all that enters N(c); `values` are the kept singular values, nearly, and `rounding` bounds ||G||."""
        width = basis.width
        check = norm_bound(matrix, basis.u, TARGET * float(values[-1]), generator)
        du, dv = defect(basis.u), crude_defect(basis.v)
        shift = 2 * (du * float(values[0]) + rounding)
        leak = _leak(matrix, basis, generator)
        unseen = math.sqrt(1 + SPLIT) * (check.bound + shift)
        below = torch.zeros_like(basis.matrix[:width])
        below[:, -width:].diagonal().fill_(unseen)
        whole = torch.cat([basis.matrix, below])
        products = check.products + LEAK_PROBES
        return cls(whole, unseen, (1 + du) * (1 + dv), (1 + du) * rounding, shift, leak, products)

    def upper(self, rank: int) -> Tensor:
        """Return upper bounds on the `rank` largest singular values of A."""
        squares = torch.linalg.eigvalsh(self.whole @ self.whole.T).flip(0)[:rank]
        squares = squares.clamp_min(self.unseen**2) + (1 + 1 / SPLIT) * self.leak**2
        upper: Tensor = self.factor * squares.sqrt() + self.rounding
        return upper

    def rest(self, left: Tensor) -> float:
        """Return d >= ||(I - P^T P) A||, where P spans the combinations `left` (k b, r), orthonormal, of U.

        No choice of Y makes A - P^T Y smaller; this is its norm for Y = left^T M V, with what rounding adds.
        """
        whole = self.whole.clone()
        whole[: len(left)] -= left @ (left.T @ whole[: len(left)])
        largest = float(torch.linalg.eigvalsh(whole @ whole.T)[-1])
        return self.factor * math.sqrt(max(largest, self.unseen**2)) + self.rounding + self.shift + self.leak


def _leak(matrix: Tensor, basis: Bidiagonalisation, generator: torch.Generator) -> float:
    """Return a bound on ||C V^T|| for all of V but its last block, where C = (I - U^T U) A should vanish."""
    rows = basis.v[: -basis.width]
    probes = random_rows(LEAK_PROBES, len(rows), generator, rows)
    return probed_norm(torch.linalg.vector_norm(project_out(probes @ rows @ matrix.T, basis.u), dim=1))


def _quadratic(matrix: Tensor, found: Verified, values: Tensor, rest: float) -> Tensor:
    """Return the third upper bound; infinite for values that are not above `rest` = d."""
    image = torch.zeros_like(found.left)
    for part in parts(matrix):
        image += found.right[:, part] @ matrix[:, part].double().T
    image -= (image @ found.left.T) @ found.left
    coupling = float(torch.linalg.eigvalsh(image @ image.T)[-1])
    gap = values.square() - rest**2
    slack = sum(matrix.shape) * EPSILON * float(values[0]) ** 2
    more = 2 * coupling / (gap + (gap.square() + 4 * coupling).sqrt()) + slack
    return torch.where(gap > 0, (values.square() + more).sqrt(), torch.inf)


@dataclass(frozen=True)
class NormBound:
    """An upper bound on a spectral norm, and the vectors multiplied for it."""

    bound: float
    products: int


def norm_bound(matrix: Tensor, basis: Tensor, target: float, generator: torch.Generator) -> NormBound:
    """Return c >= ||(I - U^T U) A||_2 with probability 1 - `FAILURE`, for orthonormal rows `basis` = U (k, m).

    Krylov with a random start, as Kuczynski & Wozniakowski (SIAM J. Matrix Anal. Appl. 13, 1992) for one vector. Let
    H = C C^T on the complement of U, of dimension d, with top eigenvalue lambda = ||C||^2 and eigenvector x, and let
    xi be the largest Rayleigh quotient of H on the block Krylov space of degree q from b Gaussian vectors w. For every
    w and every polynomial p of degree q then w^T p(H)^2 (xi - H) w >= 0. Take p(t) = U_2q(sqrt(t / xi)), U_2q
    Chebyshev of the second kind: (1 - t / xi) p(t)^2 <= 1 on [0, xi], and at lambda = xi cosh(eta)^2 it is
    -sinh((2 q + 1) eta)^2. So w_x^2 sinh((2 q + 1) eta)^2 <= |w - w_x x|^2 for each w: the b values
    sqrt(d - 1) |w_x| / |w - w_x x|, of Student's t with d - 1 degrees of freedom, are all at most
    z = sqrt(d - 1) / sinh((2 q + 1) eta). The density of t is below 1 / sqrt(2 pi), hence the chance of that is at most
    (z sqrt(2 / pi))^b. With z chosen such that this is `FAILURE`, ||C|| <= sqrt(xi) cosh(eta), whatever q is looked at.

    Blocks are added until c <= `target`, or `MOST_CHECK_BLOCKS` are used; the bound holds in either case. The vectors
    must be independent of `basis`; they are drawn later from the same generator. Directions that are added to the
    Krylov space (`_complete`) can only raise xi, and H counts as zero on U. Without rounding; see the top.
    """
    m, n = matrix.shape
    freedom = max(0, m - len(basis) - 1)
    start = random_rows(CHECK_WIDTH, m, generator, basis)
    krylov = Bidiagonalisation(
        lambda rows: project_out(rows, basis) @ matrix,
        lambda rows: project_out(rows @ matrix.T, basis),
        project_out(start, basis),
        n,
        max(1, min(MOST_CHECK_BLOCKS, freedom // CHECK_WIDTH - 1)),
        generator,
    )
    ratio = math.asinh(math.sqrt(2 * freedom / math.pi) * FAILURE ** (-1 / CHECK_WIDTH))
    while True:
        krylov.grow_left()
        seen = math.sqrt(float(torch.linalg.eigvalsh(krylov.square @ krylov.square.T)[-1]))
        found = seen * math.cosh(ratio / (2 * krylov.blocks - 1))
        if found <= target or krylov.blocks == krylov.largest:
            return NormBound(found, krylov.products)
        krylov.grow_right()


def project_out(rows: Tensor, basis: Tensor) -> Tensor:
    """Return rows (b, m) without their part in the orthonormal rows `basis` (k, m)."""
    return rows - (rows @ basis.T) @ basis


def defect(rows: Tensor) -> float:
    """Return ||Q Q^T - I||_2 of nearly orthonormal rows Q."""
    return float(torch.linalg.eigvalsh(_gram_less_identity(rows).double()).abs().max())


def crude_defect(rows: Tensor) -> float:
    """Return ||Q Q^T - I||_F, which is larger than `defect` but cheaper, and enough where it is not times s_1."""
    return float(torch.linalg.vector_norm(_gram_less_identity(rows)))


def _gram_less_identity(rows: Tensor) -> Tensor:
    gram = rows @ rows.T
    gram.diagonal().sub_(1)
    return gram
