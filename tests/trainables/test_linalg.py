"""The numbers of an export against torch.linalg.svd, PEFT and arithmetic by hand."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from trainables.linalg.factors import Factors, FactorWriter, load_factors
from trainables.linalg.truncated import truncated_svd


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (1, 4), (4, 1)])
def test_the_truncated_factors_are_the_best_approximation_of_their_rank(shape):
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    exact = torch.linalg.svdvals(delta.double())
    for rank in range(1, min(shape) + 1):
        factors = truncated_svd(delta, rank).factors
        assert torch.allclose(factors.s.double(), exact[:rank], rtol=1e-5)
        lost = torch.linalg.norm(delta.double() - factors.delta().double())
        assert float(lost) == pytest.approx(float(exact[rank:].square().sum().sqrt()), abs=1e-5)


@pytest.mark.parametrize("delta", [torch.zeros(6, 4), torch.ones(6, 4)], ids=["zero", "rank one"])
def test_factors_of_a_deficient_matrix_are_finite_and_orthonormal(delta):
    factors = truncated_svd(delta, 3).factors
    assert torch.allclose(factors.u.T @ factors.u, torch.eye(3), atol=1e-5)
    assert torch.allclose(factors.vt @ factors.vt.T, torch.eye(3), atol=1e-5)
    assert torch.allclose(factors.delta(), delta, atol=1e-5)


def test_a_rank_beyond_the_matrix_is_an_error():
    with pytest.raises(ValueError, match="rank 5 of a 6x4 matrix"):
        truncated_svd(torch.zeros(6, 4), 5)


def test_factors_written_layer_by_layer_read_back_bit_for_bit(tmp_path):
    layers = {f"l{index}": truncated_svd(torch.randn(5 + index, 4), 3).factors for index in range(3)}
    with FactorWriter(tmp_path, {name: (5 + index, 4, 3) for index, name in enumerate(layers)}) as writer:
        for name, factors in layers.items():
            writer.add(name, factors)
    stored = load_file(tmp_path / "factors.safetensors")  # safetensors' own reader
    read = load_factors(tmp_path)
    assert list(read) == list(layers)
    for name, factors in layers.items():
        assert torch.equal(stored[f"{name}.Vt"], factors.vt)
        assert torch.equal(read[name].u, factors.u)
        assert torch.equal(read[name].s, factors.s)


def test_a_factor_file_without_its_last_layer_does_not_exist(tmp_path):
    factors = Factors(torch.ones(2, 1), torch.ones(1), torch.ones(1, 2))
    with (
        pytest.raises(ValueError, match="lacks 1 layers, first 'b'"),
        FactorWriter(tmp_path, {"a": (2, 2, 1), "b": (2, 2, 1)}) as writer,
    ):
        writer.add("a", factors)
    assert not list(tmp_path.iterdir())
