"""Published tables whose answers are printed in books."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.orchestrator.compare.tables import answer

TABLES = Path(__file__).parent / "published"


def test_darwins_maize_gives_fishers_randomisation_test(capsys):
    """Fisher, The Design of Experiments (1935), section 21: of 2^15 sign patterns 863 have a sum of 314 or more.

    Heights of crossed and self-fertilised plants of fifteen pots in eighths of an inch (Darwin 1876).
    """
    usual = ["--arm", "fertilisation", "--baseline", "selfed", "--pair", "pair", "--metric", "height_eighths"]
    (only,) = answer(capsys, TABLES / "darwin.csv", "--higher-is-better", usual=usual)["comparisons"]
    assert only["n"] == 15
    assert only["mean_difference"] == pytest.approx(314 / 15)
    assert only["p_exact"] == 2 * 863 / 2**15
    assert only["verdict"] == "inconclusive", "two-sided 5.3 %; the t test says 4.97 %"


def test_the_sleep_data_of_student(capsys):
    """Cushny & Peebles 1905, Student 1908: hours of sleep gained under two drugs; paired t 4.0621, nine degrees."""
    usual = ["--arm", "drug", "--baseline", "1", "--pair", "patient", "--metric", "extra_hours", "--higher-is-better"]
    (only,) = answer(capsys, TABLES / "sleep.csv", usual=usual)["comparisons"]
    assert only["mean_difference"] == pytest.approx(1.58)
    assert only["d_z"] * 10**0.5 == pytest.approx(4.0621, abs=5e-5)
    # Nine differences above zero and one zero: the zero's sign doubles both of the two extreme patterns.
    assert only["p_exact"] == 4 / 2**10
    assert only["verdict"] == "supported"
