"""Factors on disk: exact, readable by others, whole or absent."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from trainables.linalg.factors import Factors, load_factors, save_factors


def made(rows: int, columns: int, rank: int) -> Factors:
    u, s, vt = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    return Factors(u[:, :rank], s[:rank], vt[:rank])


def test_factors_come_back_bit_for_bit_and_others_can_read_the_file(tmp_path):
    layers = {"a.q_proj": made(6, 4, 3), "a.down_proj": made(5, 9, 2)}
    path = save_factors(tmp_path, {"a.q_proj": (6, 4, 3), "a.down_proj": (5, 9, 2)}, layers.items())
    found = load_factors(tmp_path)
    assert set(found) == set(layers)
    tensors = load_file(path)  # safetensors' own reader
    for name, layer in layers.items():
        for part, expected in (("U", layer.u), ("S", layer.s), ("Vt", layer.vt)):
            assert torch.equal(tensors[f"{name}.{part}"], expected)
        assert torch.equal(found[name].delta(), layer.delta())


def test_truncation_is_the_best_approximation_of_that_rank():
    delta = torch.randn(7, 5)
    u, s, vt = torch.linalg.svd(delta, full_matrices=False)
    error = torch.linalg.norm(delta - Factors(u, s, vt).truncated(2).delta())
    torch.testing.assert_close(error, torch.linalg.norm(s[2:]))  # Eckart-Young
    with pytest.raises(ValueError, match="6 singular triplets"):
        Factors(u, s, vt).truncated(6)


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(ValueError, match=r"b.Vt. of shape \(1, 4\)"):
        save_factors(tmp_path, {"b": (3, 3, 1)}, [("b", made(3, 4, 1))])
    with pytest.raises(FileNotFoundError):
        load_factors(tmp_path)
    with pytest.raises(ValueError, match=r"lacks 3 tensors, first .c\.U"):
        save_factors(tmp_path, {"b": (3, 3, 1), "c": (3, 3, 1)}, [("b", made(3, 3, 1))])
    with pytest.raises(FileNotFoundError):
        load_factors(tmp_path)


def test_an_unknown_layer_is_a_key_error(tmp_path):
    save_factors(tmp_path, {"b": (3, 3, 1)}, [("b", made(3, 3, 1))])
    assert "c" not in load_factors(tmp_path)
