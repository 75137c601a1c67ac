"""The upper bounds one by one, on bases that have converged and on bases that have not."""

from __future__ import annotations

import math

import pytest
import torch

from tests.trainables.linalg.matrices import exact_values, spectrum, with_spectrum
from trainables.linalg import bounds
from trainables.linalg.golub_kahan import Bidiagonalisation, random_rows
from trainables.linalg.truncated import Ritz


def _bases(matrix, blocks, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    start = random_rows(width, matrix.shape[1], generator, matrix)
    forward, backward = (lambda v: v @ matrix.T), (lambda u: u @ matrix)
    basis = Bidiagonalisation(forward, backward, start, len(matrix), blocks, generator)
    for _ in range(blocks):
        basis.grow()
    return basis


@pytest.mark.parametrize("kind", ["fast", "slow", "clusters", "low", "flat"])
def test_the_recurrence_holds_to_rounding_and_its_bases_are_orthonormal(kind):
    matrix = with_spectrum(spectrum(kind, 300), 300, 420)
    basis = _bases(matrix, 8)
    gap = basis.u.double() @ matrix.double() - basis.matrix @ basis.v.double()
    assert float(torch.linalg.matrix_norm(gap, 2)) < 2e-6 * float(exact_values(matrix, 1)[0])
    assert bounds.defect(basis.u) < 3e-6
    assert bounds.defect(basis.v) < 3e-6


@pytest.mark.parametrize("blocks", [2, 4, 6, 8])
@pytest.mark.parametrize("kind", ["fast", "slow", "clusters", "low", "flat"])
def test_bounds_hold_long_before_they_are_tight(kind, blocks):
    matrix = with_spectrum(spectrum(kind, 300), 300, 420)
    basis = _bases(matrix, blocks)
    exact = exact_values(matrix, 12)
    found = bounds.verify(matrix, basis, Ritz.of(basis, 12).left, 0.0, torch.Generator().manual_seed(7))
    rounding = 1e-13 * float(exact[0])
    assert (found.lower <= exact + rounding).all()
    assert (exact - rounding <= found.upper).all()
    assert (blocks > 2) or kind == "low" or found.error > 1e-3


def test_a_certificate_is_refused_where_the_triplets_have_not_converged():
    matrix = with_spectrum(spectrum("slow", 300), 300, 420)
    basis = _bases(matrix, 3)
    ritz = Ritz.of(basis, 12)
    found = bounds.verify(matrix, basis, ritz.left, 1e-4, torch.Generator().manual_seed(7))
    wrong_by = float(((exact_values(matrix, 12) - ritz.values) / exact_values(matrix, 12)).max())
    assert wrong_by > 1e-4
    assert found.error > wrong_by


@pytest.mark.parametrize("part", ["_frobenius", "contraction", "_quadratic"])
def test_each_upper_bound_holds_by_itself_and_is_tight_where_it_is_meant_to_be(part):
    kind = "steep" if part == "_frobenius" else "slow"
    matrix = with_spectrum(spectrum(kind, 300), 300, 420)
    basis = _bases(matrix, 9)
    chosen, exact = Ritz.of(basis, 12).left, exact_values(matrix, 12)
    found = bounds.verify(matrix, basis, chosen, math.inf, torch.Generator().manual_seed(7))
    if part != "_frobenius":
        values = torch.linalg.vector_norm(found.right, dim=1)
        small = bounds.Small.of(matrix, basis, values, 1e-6, torch.Generator().manual_seed(7))
        quadratic = bounds._quadratic(matrix, found, values, small.rest(chosen))
        found.upper = small.upper(12) if part == "contraction" else quadratic
    assert (exact * (1 - 1e-12) <= found.upper).all()
    assert found.error < 1e-4


@pytest.mark.parametrize("kind", ["fast", "slow", "flat"])
@pytest.mark.parametrize("width", [0, 40])
def test_the_norm_of_what_a_basis_cannot_see_is_bounded_for_every_seed(kind, width):
    matrix = with_spectrum(spectrum(kind, 200), 200, 260)
    basis = torch.linalg.qr(torch.randn(200, width, generator=torch.Generator().manual_seed(1)))[0].T
    unseen = float(torch.linalg.matrix_norm(bounds.project_out(matrix.T, basis), 2))
    for seed in range(20):
        found = bounds.norm_bound(matrix, basis, 0.0, torch.Generator().manual_seed(seed))
        assert unseen * (1 - 1e-6) <= found.bound <= 1.3 * unseen


def test_the_norm_bound_fails_as_seldom_as_its_derivation_says(monkeypatch):
    # With a failure probability of 0.3 and one vector it must fail sometimes, and no oftener than that.
    monkeypatch.setattr(bounds, "FAILURE", 0.3)
    monkeypatch.setattr(bounds, "CHECK_WIDTH", 1)
    monkeypatch.setattr(bounds, "MOST_CHECK_BLOCKS", 3)
    sigma = torch.cat([torch.ones(1), torch.full((149,), 0.9)])
    matrix = with_spectrum(sigma, 150, 150)
    nothing = matrix.new_empty(0, 150)
    found = [bounds.norm_bound(matrix, nothing, 0.0, torch.Generator().manual_seed(seed)).bound for seed in range(400)]
    failed = sum(bound < 1 - 1e-6 for bound in found) / len(found)
    assert failed <= 0.3 + 3 * math.sqrt(0.3 * 0.7 / 400)
