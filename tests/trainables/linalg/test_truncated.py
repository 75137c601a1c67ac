"""Truncated SVD against LAPACK in fp64: values, reconstruction, bounds; and the matrices it must not trip over."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies

from tests.trainables.linalg.matrices import exact_values, spectrum, with_spectrum
from trainables.linalg import bounds, truncated
from trainables.linalg.truncated import TOLERANCE, truncated_svd

KINDS = ("fast", "slow", "clusters", "low")
SHAPES = ((400, 640), (640, 400), (512, 512))


def _assert_holds(matrix, found, rank):
    """Every promise of `truncated_svd`, checked against a full SVD in fp64."""
    factors, known = found.factors, found.certificate
    exact = exact_values(matrix, rank).numpy()
    rounding = 1e-13 * exact[0]
    assert np.all(known.lower <= exact + rounding)
    assert np.all(exact - rounding <= known.upper)
    assert known.bound <= TOLERANCE
    sigma = factors.s.double().numpy()
    large = exact >= 1e-2 * exact[0]
    assert np.allclose(sigma[large], exact[large], rtol=1e-4, atol=0)
    assert np.allclose(sigma, exact, rtol=0, atol=1e-5 * exact[0])
    assert np.all(np.diff(sigma) <= 0)
    identity = torch.eye(rank)
    assert torch.allclose(factors.u.T @ factors.u, identity, atol=5e-6)
    assert torch.allclose(factors.vt @ factors.vt.T, identity, atol=5e-6)
    whole = matrix.double()
    best = float((whole.square().sum() - torch.from_numpy(exact).square().sum()).clamp_min(0).sqrt())
    lost = float(torch.linalg.norm(whole - (factors.u.double() * factors.s) @ factors.vt.double()))
    assert lost <= best * (1 + 1e-4) + 1e-5 * exact[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_values_reconstruction_and_bounds_hold_by_golub_kahan(kind, shape):
    matrix = with_spectrum(spectrum(kind, min(shape)), *shape)
    found = truncated_svd(matrix, 24)
    assert found.certificate.route == "golub-kahan"
    _assert_holds(matrix, found, 24)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=strategies.integers(1, 500),
    columns=strategies.integers(1, 500),
    share=strategies.floats(0, 1),
    decay=strategies.floats(0.2, 3),
    cut=strategies.integers(1, 500),
    after=strategies.sampled_from([0.0, 1e-7, 1e-3, 1.0]),
    magnitude=strategies.floats(-20, 20),
    seed=strategies.integers(0, 1000),
)
def test_every_promise_holds_whatever_shape_rank_and_spectrum(rows, columns, share, decay, cut, after, magnitude, seed):
    rank = 1 + int(share * (min(rows, columns, 80) - 1))
    sigma = torch.arange(1, min(rows, columns) + 1, dtype=torch.float64) ** -decay
    sigma[cut:] *= after
    matrix = with_spectrum(sigma * 10.0**magnitude, rows, columns, seed)
    _assert_holds(matrix, truncated_svd(matrix, rank), rank)


def test_a_flat_spectrum_is_refused_by_golub_kahan_and_goes_to_the_gram_matrix():
    matrix = with_spectrum(spectrum("flat", 400), 400, 640)
    assert truncated.golub_kahan(matrix, 24, TOLERANCE) is None
    found = truncated_svd(matrix, 24)
    assert found.certificate.route == "gram"
    assert found.certificate.failure_probability == 0
    _assert_holds(matrix, found, 24)


def test_what_squaring_would_lose_goes_to_the_exact_route():
    # 60 of 64 values lie a hundred million times below the first: squared, they drown in its rounding.
    sigma = torch.cat([torch.ones(4), torch.full((60,), 1e-8)])
    matrix = with_spectrum(sigma, 64, 64)
    assert truncated.gram(matrix, 32, 1e-9) is None
    found = truncated_svd(matrix, 32, tolerance=1e-9)
    assert found.certificate.route == "exact"
    assert (found.certificate.lower < found.certificate.upper).all()
    assert found.certificate.bound <= 1e-9


def test_a_tighter_tolerance_is_kept_too():
    matrix = with_spectrum(spectrum("slow", 400), 400, 640)
    found = truncated_svd(matrix, 16, tolerance=1e-6)
    assert found.certificate.bound <= 1e-6
    assert np.allclose(found.factors.s.double().numpy(), exact_values(matrix, 16).numpy(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (1, 4), (4, 1), (1, 1)])
def test_tiny_matrices_are_factorised_at_every_rank(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for rank in range(1, min(shape) + 1):
        _assert_holds(matrix, truncated_svd(matrix, rank), rank)


def test_a_single_column_has_orthonormal_factors_at_every_rank():
    matrix = torch.zeros(20, 30)
    matrix[:, 7] = torch.randn(20, generator=torch.Generator().manual_seed(1))
    for rank in (2, 5, 20):
        _assert_holds(matrix, truncated_svd(matrix, rank), rank)


@pytest.mark.parametrize("shape", [(6, 4), (400, 640)])
def test_a_matrix_of_zeros_gives_zero_factors_with_orthonormal_columns(shape):
    found = truncated_svd(torch.zeros(shape), 3)
    assert found.certificate.route == "zero"
    assert found.certificate.bound == 0
    assert not found.factors.s.any()
    assert torch.equal(found.factors.u.T @ found.factors.u, torch.eye(3))
    assert torch.equal(found.factors.vt @ found.factors.vt.T, torch.eye(3))


@pytest.mark.parametrize("matrix", [torch.ones(6, 4), torch.ones(500, 700), torch.eye(500, 600)])
def test_ties_and_missing_ranks_give_orthonormal_factors(matrix):
    _assert_holds(matrix, truncated_svd(matrix, 3), 3)


@pytest.mark.parametrize("rank", [1, 2, 4, 8])
def test_a_small_rank_of_a_larger_matrix_goes_the_fast_way_too(rank):
    matrix = with_spectrum(spectrum("slow", 400), 400, 640)
    found = truncated_svd(matrix, rank)
    assert found.certificate.route == "golub-kahan"
    _assert_holds(matrix, found, rank)


def _structured() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    hadamard = torch.ones(1, 1)
    for _ in range(8):
        hadamard = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), hadamard)
    some = torch.randn(256, 400, generator=generator)
    half = with_spectrum(spectrum("fast", 128), 128, 400)
    column, huge, tiny = torch.zeros(256, 400), 1e-3 * some, torch.zeros(256, 400)
    two = torch.zeros(256, 400)
    column[:, 7], huge[3, 5], two[1, 2], two[200, 300] = some[:, 0], 1e4, 6e-8, 6e-8
    tiny.view(-1)[torch.randint(0, tiny.numel(), (40,), generator=generator)] = 3e-39
    return {
        "hadamard": hadamard,
        "graded hadamard": hadamard * 0.9 ** torch.arange(256)[:, None],
        "graded rows": some * torch.logspace(-6, 6, 256)[torch.randperm(256, generator=generator)][:, None],
        "rows twice": torch.cat([half, half]),
        "one column": column,
        "one huge entry": huge,
        "few entries, denormal": tiny,
        "two entries": two,
        "integers of rank 5": (4 * some[:, :5]).round() @ (4 * some[:5]).round(),
        "blocks": torch.block_diag(*(0.5**k * some[32 * k : 32 * k + 32, :50] for k in range(8))),
        "almost fp32's largest": 1e37 * with_spectrum(spectrum("slow", 256), 256, 400),
        "tall": with_spectrum(spectrum("slow", 70), 2000, 70),
    }


@pytest.mark.parametrize("rank", [1, 3, 16, 40])
@pytest.mark.parametrize("name", _structured())
def test_every_promise_holds_for_structured_matrices(name, rank):
    matrix = _structured()[name]
    _assert_holds(matrix, truncated_svd(matrix, rank), rank)


def test_what_a_bound_cost_and_the_chance_that_it_is_wrong_are_stated():
    low = truncated_svd(with_spectrum(spectrum("low", 400), 400, 640), 24).certificate
    slow = truncated_svd(with_spectrum(spectrum("slow", 400), 400, 640), 24).certificate
    assert low.failure_probability == 0
    assert low.products == 5 * 2 * 16 + 24 + bounds.PROBES
    assert slow.products >= low.products + bounds.LEAK_PROBES + bounds.CHECK_WIDTH
    assert slow.failure_probability == pytest.approx(3 * bounds.FAILURE * truncated.MOST_ATTEMPTS)


def test_small_values_of_the_small_matrix_are_not_lost_by_squaring():
    sigma = torch.tensor([1.0, 0.1, 1e-7, 3e-8, 1e-9], dtype=torch.float64)
    u, v = (torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(s)).double())[0] for s in (1, 2))
    values, left, right = truncated._small_svd(u @ sigma.diag() @ v, 4)
    assert torch.allclose(values, sigma[:4], rtol=1e-7)
    assert torch.allclose(left.T @ (u @ sigma.diag() @ v) @ right.T, sigma[:4].diag(), atol=1e-14)


def test_a_refused_certificate_costs_more_blocks_and_is_on_the_bill(monkeypatch):
    checks, verify = [], bounds.verify

    def watched(matrix, basis, *rest):
        found = verify(matrix, basis, *rest)
        checks.append((basis.products, found.products))
        return found

    monkeypatch.setattr(bounds, "verify", watched)
    monkeypatch.setattr(truncated, "SURE", 30.0)
    matrix = with_spectrum(spectrum("slow", 400), 400, 640)
    found = truncated_svd(matrix, 24)
    assert len(checks) > 1
    assert found.certificate.route == "golub-kahan"
    assert found.certificate.products == checks[-1][0] + sum(products for _, products in checks)
    assert all(products > 24 + bounds.PROBES + bounds.LEAK_PROBES + bounds.CHECK_WIDTH for _, products in checks)
    _assert_holds(matrix, found, 24)


def test_a_direction_that_the_start_cannot_see_is_found_all_the_same():
    # The start block is known, so a matrix can hide its largest singular vector from it: the bounds must not miss it.
    generator = torch.Generator().manual_seed(truncated.SEED)
    width = truncated.block_width(16, 400 * 640)
    start = torch.randn(width, 640, generator=generator).double()
    hidden = torch.randn(640, generator=torch.Generator().manual_seed(3)).double()
    basis = torch.linalg.qr(start.T)[0]
    hidden -= basis @ (basis.T @ hidden)
    hidden /= hidden.norm()
    rest = with_spectrum(spectrum("fast", 399), 399, 640).double()
    rest -= torch.outer(rest @ hidden, hidden)
    matrix = torch.cat([rest, 3 * hidden[None]]).float()
    _assert_holds(matrix, truncated_svd(matrix, 16), 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_taken_at_their_values(dtype):
    matrix = with_spectrum(spectrum("slow", 400), 400, 640).to(dtype)
    found = truncated_svd(matrix, 16)
    assert found.factors.u.dtype == torch.float32
    _assert_holds(matrix.float(), found, 16)


def test_the_same_matrix_gives_the_same_factors_bit_for_bit():
    matrix = with_spectrum(spectrum("slow", 400), 400, 640)
    torch.manual_seed(1)
    one = truncated_svd(matrix, 16)
    torch.manual_seed(2)
    other = truncated_svd(matrix, 16)
    assert torch.equal(one.factors.u, other.factors.u)
    assert torch.equal(one.factors.vt, other.factors.vt)


def test_reduced_precision_products_are_neither_used_nor_left_switched_off():
    torch.set_float32_matmul_precision("medium")
    try:
        matrix = with_spectrum(spectrum("slow", 400), 400, 640)
        _assert_holds(matrix, truncated_svd(matrix, 16), 16)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_matrix_that_is_not_finite_is_refused(bad):
    matrix = torch.ones(6, 4)
    matrix[2, 3] = bad
    with pytest.raises(ValueError, match="6x4 matrix with NaN or infinity"):
        truncated_svd(matrix, 2)


def test_values_beyond_fp32_are_refused():
    with pytest.raises(ValueError, match="6x4 matrix with NaN or infinity"):
        truncated_svd(torch.full((6, 4), 1e300, dtype=torch.float64), 2)


@pytest.mark.parametrize("tolerance", [0.0, -1e-4, float("nan")])
def test_a_tolerance_must_be_positive(tolerance):
    with pytest.raises(ValueError, match="is not positive"):
        truncated_svd(torch.ones(6, 4), 2, tolerance=tolerance)


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_that_the_matrix_cannot_have_is_an_error(rank):
    with pytest.raises(ValueError, match=f"rank {rank} of a 6x4 matrix"):
        truncated_svd(torch.zeros(6, 4), rank)
