"""What a spectrum says, against arithmetic by hand and numpy's SVD of the matrices behind it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.trainables.export.made_up import LLAMA, deltas, layers
from trainables.export.spectrum import (
    Excluded,
    FunctionalGain,
    LayerSpectrum,
    Spectrum,
    energy,
    energy_at_most,
    error,
    gain_share,
    known_rank,
    rank_for,
    split_energy,
    uniform_rank,
)
from trainables.linalg.certificate import Certificate
from trainables.targets import Linear

EXACT = Certificate("exact", np.zeros(0), np.zeros(0), 0, 0.0)


def _layer(sigma, delta_norm, name="h.0.q", kind="q", noise=0.0):
    return LayerSpectrum(Linear(name, 4, 4), kind, 0, np.array(sigma, dtype=float), delta_norm, 10.0, noise, EXACT)


def test_energy_is_the_ratio_of_sums_of_squares():
    # By hand: layer a keeps 9 of 9 + 4 + 1 = 14 at rank 1 and 13 at rank 2; layer b keeps 4 of 4 at any rank.
    found = [_layer([3, 2, 1], math.sqrt(14)), _layer([2, 0], 2.0, "h.1.q")]
    assert energy(found, 1) == pytest.approx(13 / 18)
    assert energy(found, 2) == pytest.approx(17 / 18)
    assert error(found, 2) == pytest.approx(math.sqrt(1 / 18))
    assert split_energy(found, {"h.0.q": 2}) == pytest.approx(13 / 18)
    metrics = Spectrum(found, [Excluded("norm", 3.0), Excluded("bias", 1.0)], rank=3).metrics()
    assert metrics["energy_mean_1"] == pytest.approx((9 / 14 + 1) / 2)
    assert metrics["energy_3"] == pytest.approx(1.0)
    assert metrics["delta_norm"] == pytest.approx(math.sqrt(18))
    assert metrics["relative_delta"] == pytest.approx(math.sqrt(18 / 200))
    assert metrics["outside_share"] == pytest.approx(10 / 28)
    assert metrics["layers"] == 2


def test_the_error_is_that_of_numpys_truncated_reconstruction():
    changes = deltas()
    found = layers(changes, 4)
    for rank in (1, 3):
        lost = 0.0
        for delta in changes.values():
            u, s, vt = np.linalg.svd(delta, full_matrices=False)
            lost += np.linalg.norm(delta - (u[:, :rank] * s[:rank]) @ vt[:rank]) ** 2
        whole = sum(np.linalg.norm(delta) ** 2 for delta in changes.values())
        assert error(found, rank) == pytest.approx(math.sqrt(lost / whole), rel=1e-9)


def test_a_change_of_nothing_loses_nothing():
    spectrum = Spectrum([_layer([0, 0], 0.0)], [Excluded("norm", 0.0)], rank=2)
    metrics = spectrum.metrics()
    assert (metrics["energy_1"], metrics["error_1"], metrics["outside_share"]) == (1.0, 0.0, 0.0)
    assert metrics["near_noise_layers"] == 0


@pytest.mark.parametrize(("rank", "ranks"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (10, [1, 2, 4, 8, 10])])
def test_the_reported_ranks_are_the_powers_of_two_and_the_largest(rank, ranks):
    assert Spectrum([], [], rank).ranks == ranks


def test_unknown_triplets_leave_the_energy_between_its_two_bounds():
    changes = deltas(LLAMA)
    few, full = layers(changes, 3), layers(changes, 16)
    assert known_rank(few, 16) == 3
    assert known_rank(full, 16) == 16
    for rank in (1, 3, 4, 8, 16):
        true = energy(full, rank)
        assert energy(few, rank) <= true + 1e-12
        assert energy_at_most(few, rank) >= true - 1e-12
        assert (energy_at_most(few, rank) > energy(few, rank)) == (rank > 3)


def test_the_rank_for_an_energy_is_the_first_that_reaches_it():
    found = layers(deltas(), 6)
    for share in (0.3, 0.5, 0.9, 0.999):
        rank = rank_for(found, share, 6)
        assert rank is not None
        assert energy(found, rank) >= share
        assert rank == 1 or energy(found, rank - 1) < share
    assert rank_for(layers(deltas(), 2), 0.9999, 2) is None


@pytest.mark.parametrize("rank", [1, 2, 5, 6])
def test_a_uniform_rank_costs_no_more_than_its_budget_and_one_more_would(rank):
    found = layers(deltas(), 6)
    cost = sum(min(rank, *shape) * sum(shape) for shape in [delta.shape for delta in deltas().values()])
    assert uniform_rank(found, cost) == rank
    assert uniform_rank(found, cost - 1) == rank - 1


@pytest.mark.parametrize(("delta_norm", "is_near"), [(0.0, False), (0.5, True), (9.9, True), (10.1, False)])
def test_a_change_within_ten_times_its_rounding_noise_is_flagged(delta_norm, is_near):
    assert _layer([delta_norm], delta_norm, noise=1.0).is_near_noise is is_near


@pytest.mark.parametrize("shape", [(300, 200), (100, 500)])
def test_the_noise_level_is_the_largest_singular_value_of_a_random_matrix(shape):
    # Independent entries; at these sizes the largest singular value fluctuates by about 1 %.
    noise = np.random.default_rng(4).uniform(-1, 1, shape)
    largest = np.linalg.svd(noise, compute_uv=False)[0]
    layer = LayerSpectrum(Linear("a", *shape), "a", 0, np.zeros(1), 0.0, 1.0, float(np.linalg.norm(noise)), EXACT)
    assert layer.noise_sigma == pytest.approx(largest, rel=0.05)


def test_singular_values_under_the_noise_are_not_counted_as_above_it():
    draw = np.random.default_rng(5)
    noise = draw.normal(size=(200, 200))
    signal = 300 * np.linalg.qr(draw.normal(size=(200, 3)))[0] @ np.linalg.qr(draw.normal(size=(200, 3)))[0].T
    sigma = np.linalg.svd(signal + noise, compute_uv=False)[:20]
    norms = float(np.linalg.norm(signal + noise)), 1.0, float(np.linalg.norm(noise))
    layer = LayerSpectrum(Linear("a", 200, 200), "a", 0, sigma, *norms, EXACT)
    assert layer.above_noise == 3


def test_certainty_is_that_of_the_worst_layer_and_chances_add_up():
    good = layers(deltas(), 2, slack=1e-7, route="golub-kahan", chance=1e-12)
    poor = layers({"h.9.attn.c_attn": np.eye(4)}, 2, slack=1e-3, route="gram", chance=3e-12)
    spectrum = Spectrum([*good, *poor], [], 2)
    assert spectrum.bound == pytest.approx(2e-3, rel=0.01)
    assert spectrum.failure_probability == pytest.approx(len(good) * 1e-12 + 3e-12)
    assert spectrum.routes == {"golub-kahan": len(good), "gram": 1}


def test_the_gain_kept_is_a_share_of_the_tuned_models_gain_if_there_is_one():
    gains = [FunctionalGain("base", None, None, 1.5), FunctionalGain("rank 1", 1, 0.4, 1.2)]
    tuned = FunctionalGain("tuned", None, None, 1.0)
    assert gain_share([*gains, tuned], 1.2) == pytest.approx(0.6)
    assert gain_share(gains, 1.2) is None
    assert gain_share([*gains, FunctionalGain("tuned", None, None, 1.6)], 1.2) is None
    assert gain_share([*gains, FunctionalGain("tuned", None, None, math.nan)], 1.2) is None
