"""Angles against scipy, singular vectors and intruders against torch's full SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from trainables.geometry.intruders import base_directions, count_intruders
from trainables.geometry.subspaces import directions, leading_left, overlap

SHAPES = [(30, 50), (50, 30), (40, 40), (5, 60)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis(rows, columns, seed):
    return torch.linalg.qr(draw(rows, columns, seed=seed))[0]


@pytest.mark.parametrize(("p", "q"), [(4, 4), (3, 7), (7, 3), (1, 5), (9, 9)])
def test_overlap_is_that_of_scipys_angles(p, q):
    first, second = basis(10, p, 1), basis(10, q, 2)
    angles = subspace_angles(first.numpy(), second.numpy())
    assert overlap(first, second) == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-12)


def test_overlap_is_one_inside_of_one_another_and_zero_where_orthogonal():
    whole = basis(12, 8, 3)
    assert overlap(whole[:, :3], whole) == pytest.approx(1, abs=1e-12)
    assert overlap(whole[:, :3], whole[:, 3:]) == pytest.approx(0, abs=1e-12)
    turned = whole[:, :4] @ basis(4, 4, 4)
    assert overlap(whole[:, :4], turned) == pytest.approx(1, abs=1e-12), "of the subspace, not of its basis"
    with pytest.raises(ValueError, match="empty"):
        overlap(whole, whole[:, :0])


def test_random_subspaces_overlap_by_the_larger_dimension_over_the_space():
    """Mean of 400 pairs of 3 and 5 dimensions in 20; its standard error is below .006."""
    found = [overlap(basis(20, 3, 2 * seed), basis(20, 5, 2 * seed + 1)) for seed in range(400)]
    assert np.mean(found) == pytest.approx(5 / 20, abs=0.02)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_transposed", [False, True])
def test_leading_left_vectors_are_those_of_a_full_svd(shape, is_transposed):
    matrix = draw(*shape, seed=5)
    stored = matrix.T.contiguous().T if is_transposed else matrix
    for count in (1, 4, min(shape)):
        expected = torch.linalg.svd(matrix, full_matrices=False)[0][:, :count]
        found = leading_left(stored.float(), count)
        torch.testing.assert_close((found.T @ expected).abs(), torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="singular vectors"):
        leading_left(matrix, min(shape) + 1)


def test_directions_leave_out_what_rounding_made():
    vectors = torch.eye(4)
    assert directions(vectors, torch.tensor([2.0, 1.0, 1e-9, 0.0])).shape == (4, 2)
    assert directions(vectors, torch.zeros(4)).shape == (4, 0)


def dense_intruders(tuned, base):
    """The definition of arXiv 2410.21228 by torch's SVD of both whole matrices."""
    vectors = torch.linalg.svd(tuned.double(), full_matrices=False)[0][:, :10]
    every = torch.linalg.svd(base.double(), full_matrices=False)[0]
    return int(((every.T @ vectors).abs().amax(0) < 0.5).sum())


@pytest.mark.parametrize("shape", [(80, 60), (60, 80), (120, 120), (8, 40)])
@pytest.mark.parametrize("size", [0.0, 0.3, 3.0, 30.0])
def test_intruders_are_counted_as_their_definition_says(shape, size):
    """From no change to one whose few directions lead the tuned weight; a base of 120 has more than those known."""
    base = draw(*shape, seed=7)
    left, right = basis(shape[0], 3, 8), basis(shape[1], 3, 9)
    tuned = base + size * (left * torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)) @ right.T
    expected = dense_intruders(tuned, base)
    assert count_intruders(tuned, base, base_directions(base)) == expected
    assert size < 30 or min(shape) < 20 or expected == 3, "three directions that the base has not"
    assert size > 0 or expected == 0


def test_a_vector_that_is_like_a_base_vector_beyond_those_known_is_no_intruder():
    """The base's last singular vector, of 40, is made the tuned weight's first: only all of the base's tell."""
    left, right = basis(60, 40, 10), basis(50, 40, 11)
    values = torch.linspace(10, 5, 40, dtype=torch.float64)
    base = (left * values) @ right.T
    tuned = base + 20 * torch.outer(left[:, -1], right[:, -1])
    assert count_intruders(tuned, base, base_directions(base)) == 0
    stranger = basis(60, 41, 10)[:, 40]
    assert count_intruders(base + 40 * torch.outer(stranger, right[:, -1]), base, base_directions(base)) == 1
