"""The upper bounds one by one, on bases that have converged and on bases that have not."""

from __future__ import annotations

import math

import pytest
import torch

from tests.trainables.linalg.matrices import exact_values, spectrum, with_spectrum
from trainables.linalg import bounds
from trainables.linalg.golub_kahan import Bidiagonalisation, orthonormalise, random_rows
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


def test_a_product_that_went_wrong_outside_of_the_left_basis_is_found():
    # The matrix is changed where U does not look, for one right vector of the basis: U A = M V holds as before.
    matrix = with_spectrum(spectrum("slow", 300), 300, 420)
    basis = _bases(matrix, 9)
    _, values, right = torch.linalg.svd(basis.matrix)
    outside = bounds.project_out(torch.randn(1, 300, generator=torch.Generator().manual_seed(5)), basis.u)
    changed = matrix + 0.05 * values[11] * (outside / outside.norm()).T @ (right[11].float() @ basis.v)[None]
    exact = exact_values(changed, 12)
    assert float(exact[11]) > float(values[11]) * (1 + 1e-3)
    small = bounds.Small.of(changed, basis, values[:12], 1e-6, torch.Generator().manual_seed(7))
    assert (exact <= small.upper(12)).all()


def _extremal(c, blocks=3):
    """A matrix that is c times an isometry where the bases do not look, so that its values are those of N(c)."""
    matrix = with_spectrum(spectrum("slow", 120), 120, 120)
    basis = _bases(matrix, blocks)
    u, v = (torch.linalg.qr(rows.double().T, mode="complete")[0].T for rows in (basis.u, basis.v[: -basis.width]))
    rest = c * u[len(basis.u) :].T @ v[len(basis.u) :]
    return (basis.u.double().T @ basis.matrix @ basis.v.double() + rest).float(), basis


@pytest.mark.parametrize("c", [0.02, 0.1, 0.5])
def test_the_contraction_bound_is_attained_and_not_passed_by_the_worst_matrix(monkeypatch, c):
    matrix, basis = _extremal(c)
    monkeypatch.setattr(bounds, "norm_bound", lambda *_: bounds.NormBound(c, 0))
    small = bounds.Small.of(matrix, basis, exact_values(matrix, 40), 1e-6, torch.Generator().manual_seed(7))
    exact, upper = exact_values(matrix, 40), small.upper(40)
    assert (exact <= upper).all()
    assert (upper <= exact * 1.02).all()


@pytest.mark.parametrize("wrong", ["left", "right", "matrix"])
def test_bounds_hold_for_bases_that_are_not_quite_right(wrong):
    matrix = with_spectrum(spectrum("slow", 300), 300, 420)
    basis = _bases(matrix, 9)
    if wrong == "left":
        basis._u *= 0.999
        basis._m *= 0.999
    elif wrong == "right":
        basis._v *= 1.001
        basis._m /= 1.001
    else:
        basis._m *= 0.999
    exact = exact_values(matrix, 12)
    found = bounds.verify(matrix, basis, Ritz.of(basis, 12).left, 0.0, torch.Generator().manual_seed(7))
    assert (found.lower <= exact * (1 + 1e-12)).all()
    assert (exact * (1 - 1e-12) <= found.upper).all()


def test_the_quadratic_bound_is_exact_for_two_directions_that_are_mixed():
    sigma = torch.tensor([2.0, 1.5, 0.7, 0.6], dtype=torch.float64)
    mixed = torch.tensor([[1, 0, 0, 0], [0, math.cos(0.3), math.sin(0.3), 0]], dtype=torch.float64)
    right = mixed * sigma
    values = torch.linalg.vector_norm(right, dim=1)
    found = bounds.Verified(mixed, right, values, values, 0, 0.0)
    rest = math.hypot(math.sin(0.3) * 1.5, math.cos(0.3) * 0.7)
    upper = bounds._quadratic(sigma.diag(), found, values, rest)
    assert float(upper[0]) >= 2
    assert 1.5 * (1 - 1e-14) <= float(upper[1]) <= 1.5 * (1 + 1e-9)
    assert bounds._quadratic(sigma.diag(), found, values, 1.8).tolist()[1] == math.inf


def test_the_frobenius_bound_is_exact_where_all_that_is_left_over_belongs_to_the_first_value():
    matrix = torch.outer(torch.eye(5)[0], torch.ones(7))
    left = torch.tensor([[1.0, 1.0, 0, 0, 0]], dtype=torch.float64) / math.sqrt(2)
    right = left @ matrix.double()
    lower, upper = bounds._frobenius(matrix, left, right, squares=right.square().sum(dim=1), total=7.0)
    assert float(lower) == pytest.approx(math.sqrt(3.5), rel=1e-9)
    assert math.sqrt(7) <= float(upper) <= math.sqrt(7) * (1 + 1e-9)


@pytest.mark.parametrize("probes", [1, 3])
def test_probes_fail_to_bound_a_norm_as_often_as_they_may(monkeypatch, probes):
    monkeypatch.setattr(bounds, "FAILURE", 0.1)
    draws = torch.randn(2000, probes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    failed = sum(bounds.probed_norm(draw.abs()) < 1 for draw in draws) / len(draws)
    assert 0.05 <= failed <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 2000)


def test_the_norm_bound_stops_as_soon_as_it_is_good_enough():
    matrix = with_spectrum(spectrum("slow", 200), 200, 260)
    found = [bounds.norm_bound(matrix, matrix[:0, :200], t, torch.Generator().manual_seed(0)) for t in (100.0, 0.0)]
    assert found[0].products == bounds.CHECK_WIDTH
    assert found[1].products == bounds.CHECK_WIDTH * (2 * bounds.MOST_CHECK_BLOCKS - 1)
    assert found[1].bound < found[0].bound


@pytest.mark.parametrize("order", [[0, 0, 1, 2], [0, 1, 1, 2, 0], [3, 0, 1, 2]])
def test_rows_that_depend_on_each_other_are_orthonormalised_without_loss(order):
    generator = torch.Generator().manual_seed(4)
    basis = torch.linalg.qr(torch.randn(200, 30, generator=generator))[0].T
    rows = bounds.project_out(torch.randn(4, 200, generator=generator), basis)
    rows[3] = 0
    rows = rows[order]
    found, factor = orthonormalise(rows, basis, generator)
    assert float((factor @ found.double() - rows).norm()) < 3e-6 * float(rows.norm())
    assert torch.allclose(found @ found.T, torch.eye(len(order)), atol=1e-6)
    assert float((found @ basis.T).abs().max()) < 1e-6


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e-39])
@pytest.mark.parametrize("first", [0, 2, 4])
def test_rows_of_next_to_nothing_and_rows_within_the_basis_still_give_an_orthonormal_block(size, first):
    # Unit vectors are what a QR completes a basis with by itself: these must not come back.
    eye = torch.eye(40)
    found, factor = orthonormalise(size * eye[first : first + 4], eye[:4], torch.Generator().manual_seed(0))
    assert torch.allclose(found @ found.T, torch.eye(4), atol=1e-6)
    assert float((found @ eye[:4].T).abs().max()) < 1e-6
    outside = size * eye[max(4, first) : first + 4].double()
    assert torch.allclose(factor[max(0, 4 - first) :] @ found.double(), outside, rtol=0, atol=2e-6 * size)


def test_a_basis_of_everything_leaves_nothing_unseen():
    matrix = with_spectrum(spectrum("slow", 64), 64, 80)
    found = bounds.norm_bound(matrix, torch.eye(64), 0.0, torch.Generator().manual_seed(0))
    assert found.bound < 1e-5


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


@pytest.mark.parametrize("width", [1, 4])
def test_the_norm_bound_is_no_larger_than_its_chance_of_failure_requires(monkeypatch, width):
    # One block and a matrix of rank one leave no slack: at a failure probability of 0.3 it must fail about that often.
    monkeypatch.setattr(bounds, "FAILURE", 0.3)
    monkeypatch.setattr(bounds, "CHECK_WIDTH", width)
    monkeypatch.setattr(bounds, "MOST_CHECK_BLOCKS", 1)
    matrix = with_spectrum(torch.ones(1), 150, 150)
    nothing = matrix.new_empty(0, 150)
    found = [bounds.norm_bound(matrix, nothing, 0.0, torch.Generator().manual_seed(seed)).bound for seed in range(400)]
    failed = sum(bound < 1 for bound in found) / len(found)
    assert (0.2 if width == 1 else 0.0) <= failed <= 0.3 + 3 * math.sqrt(0.3 * 0.7 / 400)
