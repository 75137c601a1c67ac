"""The rounding-noise floor against the error of really rounding, and against numpy's own spacing of numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainables.export.noise import RoundingNoise, noise_norm
from trainables.export.spectrum import is_near_noise

FORMATS = [torch.bfloat16, torch.float16, torch.float32]
LOW = [torch.bfloat16, torch.float16]


def weights(seed: int = 0, shape: tuple[int, ...] = (576, 320), sd: float = 0.02) -> torch.Tensor:
    """Normal weights in fp64, finer than any format they are rounded to."""
    return sd * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("sd", [0.02, 1.0, 3e-4])
def test_the_floor_is_the_error_that_rounding_really_makes(dtype: torch.dtype, sd: float) -> None:
    exact = weights(sd=sd)
    stored = exact.to(dtype)
    measured = float(torch.linalg.norm(stored.double() - exact))
    assert noise_norm(stored) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("container", [torch.float32, torch.float64], ids=str)
def test_weights_of_a_half_precision_save_stay_half_precision_when_they_are_saved_as_fp32(
    dtype: torch.dtype, container: torch.dtype
) -> None:
    stored = weights().to(dtype)
    assert noise_norm(stored.to(container)) == pytest.approx(noise_norm(stored), rel=1e-12)


def test_bf16_weights_that_were_saved_again_as_fp16_are_still_bf16() -> None:
    stored = weights().to(torch.bfloat16)
    again = stored.to(torch.float16)
    kept = again.float() == stored.float()  # fp16 has no room for the smallest of them
    again = torch.where(kept, again, torch.zeros_like(again))
    assert noise_norm(again) == pytest.approx(noise_norm(stored), rel=1e-3)


def test_one_weight_of_full_precision_makes_the_tensor_one_of_full_precision() -> None:
    stored = weights().to(torch.bfloat16).float()
    stored[-1, -1] = 0.1  # no bf16 and no fp16 number
    assert noise_norm(stored) < 1e-4 * noise_norm(weights().to(torch.bfloat16))


def test_a_bf16_teacher_has_relative_noise_of_a_thousandth_and_an_fp32_one_of_a_ten_millionth() -> None:
    exact = weights(shape=(1536, 576))
    norm = float(torch.linalg.norm(exact))
    assert 1e-3 < noise_norm(exact.to(torch.bfloat16)) / norm < 2e-3
    assert 1e-8 < noise_norm(exact.float()) / norm < 1e-7


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_spacing_is_the_one_that_numpy_knows_down_to_subnormal_numbers(dtype: type[np.floating]) -> None:
    information = np.finfo(dtype)
    tiny, step = float(information.tiny), float(information.smallest_subnormal)
    chosen = [1.0, -1.75, 2.0, 3.1, 1e-3, -tiny, 1.5 * tiny, 0.75 * tiny, 5 * step, step, 0.0, -0.0]
    values = np.array(chosen, dtype=dtype)
    # Of several formats that hold a set of values the coarsest counts, so one value that only this format holds.
    values = np.append(values, np.nextafter(dtype(1), dtype(2)))
    spacings = np.spacing(np.abs(values[values != 0])).astype(np.float64)
    expected = math.sqrt(float(np.sum(np.square(spacings))) / 12)
    assert noise_norm(torch.from_numpy(values)) == pytest.approx(expected, rel=1e-12)


def test_subnormal_numbers_alone_have_the_smallest_spacing() -> None:
    step = 2.0**-24
    values = torch.tensor([1.0, 2.0, 3.0, 1023.0]).mul(step).half()
    assert noise_norm(values) == pytest.approx(math.sqrt(4 / 12) * step)


def test_zeros_carry_no_noise() -> None:
    sparse = weights().to(torch.bfloat16)
    sparse[1:] = 0
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert noise_norm(torch.zeros(7, 5, dtype=dtype)) == 0
    assert noise_norm(sparse) == pytest.approx(noise_norm(sparse[:1]), rel=1e-12)


@pytest.mark.parametrize("stored", FORMATS, ids=str)
def test_pieces_give_the_floor_of_the_whole(stored: torch.dtype) -> None:
    whole = weights().to(stored)
    noise = RoundingNoise(stored)
    for piece in whole.float().flatten().split(1000):
        noise.add(piece)
    assert noise.norm == pytest.approx(noise_norm(whole), rel=1e-12)


def test_a_change_is_near_noise_below_ten_floors_and_no_change_is_not() -> None:
    assert [is_near_noise(delta, 1.0) for delta in (0.0, 0.5, 9.99, 10.0, 11.0)] == [False, True, True, False, False]
    assert not is_near_noise(1.0, 0.0)


def test_rounding_a_weight_that_did_not_change_is_flagged_and_real_training_in_fp32_is_not() -> None:
    base = weights().float()
    rounded = base.to(torch.bfloat16)
    moved = base + 2e-4 * weights(1, sd=1.0).float()
    for tuned, is_noise in ((rounded, True), (rounded.float(), True), (moved, False)):
        delta = float(torch.linalg.norm(tuned.double() - base.double()))
        assert is_near_noise(delta, noise_norm(tuned)) is is_noise
