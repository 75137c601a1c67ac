"""How fast the truncated SVD is beside what others use, and how far each is from the truth: r = 64, fp32, one thread.

Every method sees the same matrices in the same run, turn by turn; seconds are medians. The error is the largest
relative one of the 64 singular values against LAPACK in fp64. linalg.svd gets each matrix in the orientation that it
is faster in (tall). "bare" is block Golub-Kahan until its own estimate says that it has converged, "certified" is
`truncated_svd` with all that its bounds cost. The floor is the time of bare's passes over the matrix alone: so many
products with blocks of as many vectors.

    OMP_NUM_THREADS=1 python -m pytest tests/benchmarks/test_svd.py -n 0 -m benchmark -s
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.benchmarks.smollm2 import trained_pair
from tests.trainables.linalg.matrices import with_spectrum
from trainables.export.checkpoint_pair import Checkpoint, CheckpointPair
from trainables.linalg import truncated
from trainables.linalg.truncated import truncated_svd
from trainables.targets import read_layout, select

RANK = 64
AIM = 1e-4


@dataclass
class Method:
    """A way to the leading singular values of a list of matrices, and what was measured of it."""

    name: str
    values: Callable[[Tensor], Tensor]
    seconds: list[float] = field(default_factory=list)
    found: list[Tensor] = field(default_factory=list)

    def run(self, matrices: Sequence[Tensor]) -> None:
        begun = time.perf_counter()
        self.found = [self.values(matrix) for matrix in matrices]
        self.seconds.append(time.perf_counter() - begun)

    def error(self, exact: Sequence[Tensor]) -> float:
        """The largest relative error of a value over all matrices."""
        return max(float(((f.double() - e).abs() / e).max()) for f, e in zip(self.found, exact, strict=True))


def full(matrix: Tensor) -> Tensor:
    """The leading values by LAPACK's full SVD, vectors included, of the tall orientation."""
    tall = matrix.T.contiguous() if matrix.shape[0] < matrix.shape[1] else matrix
    return torch.linalg.svd(tall, full_matrices=False).S[:RANK]


def lowrank(niter: int) -> Callable[[Tensor], Tensor]:
    """torch.svd_lowrank (Halko, Martinsson & Tropp 2011), the fast choice of other tools."""

    def values(matrix: Tensor) -> Tensor:
        torch.manual_seed(0)
        return torch.svd_lowrank(matrix, q=RANK, niter=niter)[1]

    return values


def _wide(matrix: Tensor) -> Tensor:
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def gram(matrix: Tensor) -> Tensor:
    """The Gram route, in fp64."""
    found = truncated.gram(_wide(matrix), RANK, torch.inf)
    assert found is not None
    return found.factors.s


def bare(matrix: Tensor) -> Tensor:
    """Block Golub-Kahan to convergence by its own estimate, vectors included; small matrices go the Gram route."""
    generator = torch.Generator().manual_seed(truncated.SEED)
    converged = truncated.bidiagonalise(_wide(matrix), RANK, AIM, generator)
    if converged is None:
        return gram(matrix)
    basis, ritz = converged
    return ritz.factors(basis).s


def certified(matrix: Tensor) -> Tensor:
    """What an export calls."""
    return truncated_svd(matrix, RANK).factors.s


def floor(matrices: Sequence[Tensor]) -> tuple[float, str]:
    """Return the seconds of bare's products alone, and how many there are; matrices of other routes count nothing."""
    seconds, passes, width = 0.0, [], 0
    for matrix in map(_wide, matrices):
        generator = torch.Generator().manual_seed(truncated.SEED)
        converged = truncated.bidiagonalise(matrix, RANK, AIM, generator)
        if converged is None:
            continue
        basis = converged[0]
        v, u, width = basis.v[: basis.width].clone(), basis.u[: basis.width].clone(), basis.width
        begun = time.perf_counter()
        for _ in range(basis.blocks):
            v @ matrix.T
            u @ matrix
        seconds += time.perf_counter() - begun
        passes.append(2 * basis.blocks)
    span = f"{min(passes)}" if min(passes) == max(passes) else f"{min(passes)} to {max(passes)}"
    return seconds, f"{span} passes of {width} vectors over {len(passes)} of {len(matrices)} matrices"


def compare(title: str, matrices: Sequence[Tensor], repeats: int, *, slow: bool = True) -> None:
    """Print one table; `slow` says whether the methods that take longer than a full SVD are shown too."""
    exact = [torch.linalg.svdvals(_wide(matrix).T.double())[:RANK] for matrix in matrices]
    methods = [
        Method("torch.linalg.svd", full),
        Method("svd_lowrank, niter=2", lowrank(2)),
        *([Method("svd_lowrank, niter=16", lowrank(16)), Method("Gram, fp64", gram)] if slow else []),
        Method("bare", bare),
        Method("certified", certified),
    ]
    for _ in range(repeats):
        for method in methods:
            method.run(matrices)
    print(f"\n{title}")
    seconds = {method.name: statistics.median(method.seconds) for method in methods}
    for method in methods:
        taken = seconds[method.name]
        ratio = seconds["torch.linalg.svd"] / taken
        print(f"  {method.name:<22} {taken:8.3f} s   {ratio:5.1f} x   error {method.error(exact):.1e}")
    least, passes = floor(matrices)
    print(f"  {'floor of bare':<22} {least:8.3f} s   bare is {seconds['bare'] / least:.2f} times that; {passes}")
    bounds = [truncated_svd(matrix, RANK).certificate for matrix in matrices]
    routes = {route: [b.route for b in bounds].count(route) for route in {b.route for b in bounds}}
    print(f"  largest certified error {max(b.bound for b in bounds):.1e}; routes {routes}")
    for method in methods[-2:]:
        assert method.error(exact) <= AIM, method.name
    assert max(bound.bound for bound in bounds) <= AIM


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def decaying(rows: int, columns: int) -> Tensor:
    """A matrix whose singular values fall as slowly as those of a weight change: i^-0.75 over a floor of noise."""
    index = torch.arange(1, min(rows, columns) + 1, dtype=torch.float64)
    return with_spectrum(index**-0.75 + 0.01 * torch.linspace(1, 0.2, len(index)), rows, columns)


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("rows", "columns", "repeats"), [(1536, 1536, 5), (8960, 1536, 3), (3584, 18944, 1)])
def test_one_matrix(rows: int, columns: int, repeats: int) -> None:
    compare(f"{rows} x {columns}, slow decay", [decaying(rows, columns)], repeats)


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
def test_the_layers_of_a_real_change(tmp_path: Path) -> None:
    base, tuned = trained_pair(tmp_path)
    layout = read_layout(base)
    pair = CheckpointPair(Checkpoint(base, "base"), Checkpoint(tuned, "tuned"), torch.device("cpu"))
    parameters = {name: parameter for parameter in layout.parameters for name in parameter.names}
    changes = [pair.change(parameters[linear.weight]).delta for linear in select(layout, "all-linear")]
    compare(f"{len(changes)} layers of SmolLM2-135M, a teacher's change", changes, 3)
