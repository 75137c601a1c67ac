"""What counts as the error of a certificate: the worst value, relative to itself unless it is small."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.linalg.certificate import Certificate, relative


def test_the_worst_value_counts_and_not_the_mean():
    certificate = Certificate("exact", np.array([2.0, 0.9, 0.5]), np.array([2.0, 1.0, 0.5]), 3, 0.0)
    assert certificate.bound == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("upper", "error"), [(0.02, 1e-3 / 0.02), (0.0101, 1e-3 / 0.0101), (0.0099, 1e-2), (2e-3, 1e-2)]
)
def test_below_a_hundredth_of_the_largest_an_error_counts_against_a_tenth_of_the_largest(upper, error):
    assert relative(np.array([1.0, upper - 1e-3]), np.array([1.0, upper])) == pytest.approx(error)


@pytest.mark.parametrize("values", [[], [0.0, 0.0]])
def test_nothing_is_wrong_with_what_is_exactly_zero(values):
    assert relative(np.array(values), np.array(values)) == 0


def test_bounds_that_are_not_numbers_are_never_good_enough():
    assert not relative(np.array([1.0, np.nan]), np.array([1.0, np.nan])) <= 1e9
