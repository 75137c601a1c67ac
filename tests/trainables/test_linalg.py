"""The numbers of an export against torch.linalg.svd, PEFT and arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.trainables.tiny_models import FAMILIES, base_model
from trainables.base import InputError
from trainables.checkpoint_files import read_headers
from trainables.export.spectrum import Excluded, LayerSpectrum, Spectrum, energy, error
from trainables.linalg.certificate import Certificate
from trainables.linalg.factors import Factors, FactorWriter, load_factors
from trainables.linalg.truncated import truncated_svd
from trainables.targets import (
    Linear,
    check_targets,
    depth,
    layer_types,
    linear_shapes,
    read_layout,
    select,
)

EXACT = Certificate("exact", np.zeros(0), np.zeros(0), 0, 0.0)


def _layer(sigma, delta_norm, name="h.0.q", kind="q"):
    return LayerSpectrum(Linear(name, 4, 4), kind, 0, np.array(sigma, dtype=float), delta_norm, 10.0, 0.0, EXACT)


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


def test_energy_is_the_ratio_of_sums_of_squares():
    # By hand: layer a keeps 9 of 9 + 4 + 1 = 14 at rank 1 and 13 at rank 2; layer b keeps 4 of 4 at any rank.
    layers = [_layer([3, 2, 1], math.sqrt(14)), _layer([2, 0], 2.0, "h.1.q")]
    assert energy(layers, 1) == pytest.approx(13 / 18)
    assert energy(layers, 2) == pytest.approx(17 / 18)
    assert error(layers, 2) == pytest.approx(math.sqrt(1 / 18))
    metrics = Spectrum(layers, [Excluded("norm", 3.0), Excluded("bias", 1.0)], rank=3).metrics()
    assert metrics["energy_mean_1"] == pytest.approx((9 / 14 + 1) / 2)
    assert metrics["energy_3"] == pytest.approx(1.0)
    assert metrics["delta_norm"] == pytest.approx(math.sqrt(18))
    assert metrics["relative_delta"] == pytest.approx(math.sqrt(18 / 200))
    assert metrics["outside_share"] == pytest.approx(10 / 28)
    assert metrics["layers"] == 2


def test_a_change_of_nothing_loses_nothing():
    spectrum = Spectrum([_layer([0, 0], 0.0)], [Excluded("norm", 0.0)], rank=2)
    metrics = spectrum.metrics()
    assert (metrics["energy_1"], metrics["error_1"], metrics["outside_share"]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(("rank", "ranks"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (10, [1, 2, 4, 8, 10])])
def test_the_reported_ranks_are_the_powers_of_two_and_the_largest(rank, ranks):
    assert Spectrum([], [], rank).ranks == ranks


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "targets", ["all-linear", "ALL-LINEAR", r".*\.1\..*proj", ["o_proj", "c_attn"], ["down_proj", "mlp.c_proj"]]
)
def test_targets_are_those_that_peft_would_adapt(family, targets):
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForCausalLM

    layout = read_layout(base_model(family))
    known = targets
    if isinstance(targets, list):  # each list names a layer of either naming scheme
        known = [name for name in targets if any(module.endswith(f".{name}") for module in layout.linears)]
    elif family == "gpt2" and "proj" in targets:
        known = r".*\.1\..*c_proj"
    model = AutoModelForCausalLM.from_pretrained(base_model(family))
    adapted = get_peft_model(model, LoraConfig(r=1, target_modules=known, task_type="CAUSAL_LM")).get_base_model()
    expected = [name for name, module in adapted.named_modules() if isinstance(module, LoraLayer)]
    chosen = select(layout, known)
    assert expected
    assert [linear.name for linear in chosen] == expected
    modules = dict(adapted.named_modules())
    for linear in chosen:
        layer = modules[linear.name]
        assert (linear.out_features, linear.in_features) == (layer.out_features, layer.in_features)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_has_every_tensor_once_and_the_header_tells_the_same_linear_layers(family):
    from transformers import AutoModelForCausalLM

    folder = base_model(family)
    layout = read_layout(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {item.name: item.shape for item in layout.parameters} == {
        name: tuple(tensor.shape) for name, tensor in model.named_parameters()
    }
    stored = read_headers(folder)
    from_header = linear_shapes(stored)
    assert set(from_header) == {name for name in layout.linears if f"{name}.weight" in stored}


def test_a_target_that_matches_nothing_is_named_with_what_there_is():
    modules = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"]
    with pytest.raises(
        InputError, match=r"'q_prj' matches no linear layer.* Did you mean 'q_proj'\? .*q_proj, up_proj"
    ):
        check_targets(["up_proj", "q_prj"], modules)
    with pytest.raises(InputError, match="Did you mean 'all-linear'"):
        check_targets("all_linear", modules)
    with pytest.raises(InputError, match="no regular expression"):
        check_targets("(q_proj", modules)
    with pytest.raises(InputError, match="target_modules is empty"):
        check_targets([], modules)
    check_targets(["up_proj"], modules)


def test_a_tied_output_head_is_no_target():
    layout = read_layout(base_model("llama"))
    with pytest.raises(InputError, match="'lm_head', whose weight is tied"):
        select(layout, ["q_proj", "lm_head"])
    assert [linear.name for linear in select(read_layout(base_model("qwen2")), ["lm_head"])] == ["lm_head"]


def test_types_say_the_parent_only_where_one_name_means_two_layers():
    names = ["h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_proj"]
    assert list(layer_types(names).values()) == ["c_attn", "attn.c_proj", "mlp.c_proj"]
    assert [depth(name) for name in ("model.layers.11.mlp.up_proj", "lm_head")] == [11, None]


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
