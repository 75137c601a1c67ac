"""Oscillation, decay, costs: formulas against cases worked out by hand."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from orchestrator.report.claims.costs import Cost, ToTarget, flops, students
from orchestrator.report.claims.decay import by_type, fits, fitted
from orchestrator.report.claims.oscillation import oscillation


def test_oscillation_is_the_noise_about_a_trend_and_not_the_trend():
    noise = random.Random(1)
    losses = [3 * math.exp(-step / 60) + noise.gauss(0, 0.05) for step in range(400)]
    assert oscillation(losses) == pytest.approx(0.05, rel=0.1)
    assert np.std(losses) > 0.5, "the plain standard deviation is that of the trend"


def test_oscillation_by_hand():
    # Successive differences 1, -1, 1: sqrt(3 / (2 * 3)).
    assert oscillation([0, 1, 0, 1]) == pytest.approx(math.sqrt(0.5))
    assert oscillation([2.0] * 5) == 0
    assert oscillation([1, 2, 3]) is None
    assert oscillation([1, 2, math.nan, 3]) is None


def test_a_spectrum_is_told_by_the_law_it_was_made_by(tmp_path):
    index = np.arange(1, 33)
    exponential = fitted("a", "q", 2 * np.exp(-0.2 * index))
    power = fitted("b", "q", 2 * index**-0.8)
    assert exponential is not None
    assert power is not None
    assert exponential.is_exponential
    assert exponential.r2_exponential == pytest.approx(1)
    assert exponential.r2_power < 0.95
    assert not power.is_exponential
    assert power.r2_power == pytest.approx(1)


def test_aic_is_n_log_rss_for_lines_with_two_parameters_each():
    sigma = np.array([5.0, 3.1, 1.8, 1.3, 0.7, 0.5])
    found = fitted("a", "q", sigma)
    assert found is not None
    x, y = np.arange(1, 7), np.log(sigma)
    rss = [np.sum((np.polyval(np.polyfit(at, y, 1), at) - y) ** 2) for at in (x, np.log(x))]
    assert found.aic_gain == pytest.approx(6 * math.log(rss[1] / rss[0]))
    total = np.sum((y - y.mean()) ** 2)
    assert found.r2_exponential == pytest.approx(1 - (rss[0] / 4) / (total / 5))


def test_zeros_and_rounding_are_no_part_of_a_spectrum_and_few_values_give_no_fit():
    decaying = np.exp(-0.3 * np.arange(1, 11))
    with_zeros = fitted("a", "q", np.concatenate([decaying, [1e-12, 0.0, 0.0]]))
    assert with_zeros is not None
    assert with_zeros.r2_exponential == pytest.approx(1)
    assert fitted("a", "q", np.array([3.0, 2.0, 1.0])) is None
    assert fitted("a", "q", np.zeros(8)) is None


def test_fits_are_read_from_the_exports_file_by_type(tmp_path):
    rows = [f"l{k},{kind},{i},{2 * math.exp(-0.1 * i)}" for k in (0, 1) for kind in "qv" for i in range(1, 9)]
    (tmp_path / "spectrum.csv").write_text("\n".join(["layer,type,index,sigma", *rows]))
    found = by_type(fits(tmp_path / "spectrum.csv"))
    assert {kind: len(layers) for kind, layers in found.items()} == {"q": 2, "v": 2}


def test_flops_are_6_n_for_full_training_and_4_n_plus_6_n_for_lora():
    assert flops(10, 100, 100) == 10 * 6 * 100
    frozen, adapter = 100, 7
    assert flops(10, frozen + adapter, adapter) == 10 * (4 * frozen + 6 * adapter)


def costing(value, *, reached=4, n=4):
    return ToTarget(Cost(device_seconds=value), n, reached)


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (costing(2), costing(7), "after 20 students"),
        (costing(2), costing(7, reached=0), "after at most 20 students"),
        (costing(7), costing(2), "never"),
        (costing(7), costing(2, reached=1), "not seen"),
        (costing(2, reached=3), costing(7), "not known"),
        (costing(0), costing(200), "after 1 student"),
    ],
)
def test_after_how_many_students_a_teacher_of_100_has_paid_for_itself(ours, theirs, told):
    assert students(100, ours.mean.device_seconds, theirs.mean.device_seconds, ours, theirs) == told
