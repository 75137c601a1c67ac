"""The check at the end must pass on a good adapter and fail on every way in which one can be wrong."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainables.export.pairs import make_pair
from tests.trainables.tiny_models import FAMILIES
from trainables.export.adapter import AdapterOptions, write_adapter
from trainables.export.reload import ReloadCheck, ReloadError, add_change, check_reload, spread_tokens
from trainables.training.models import load_model


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return {family: make_pair(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [AdapterOptions(), AdapterOptions(lora_alpha=64, use_rslora=True)])
def test_a_good_adapter_passes_by_a_wide_margin(pairs, tmp_path, family, options):
    pair = pairs[family]
    write_adapter(tmp_path, pair.base, pair.factors, pair.ranks(3, 9), options=options)
    found = check_reload(pair.base, tmp_path, pair.factors, pair.ranks(3, 9), pair.linears)
    assert 0 < found.relative < 1e-5 < 1e-3 <= found.tolerance < 2e-3


def test_bf16_has_a_tolerance_of_its_own(pairs, tmp_path):
    pair = pairs["llama"]
    write_adapter(tmp_path, pair.base, pair.factors, pair.ranks(9), options=AdapterOptions(dtype="bf16"))
    found = check_reload(pair.base, tmp_path, pair.factors, pair.ranks(9), pair.linears, dtype="bf16")
    assert 1e-3 < found.relative < found.tolerance / 3
    with pytest.raises(ReloadError):
        check_reload(pair.base, tmp_path, pair.factors, pair.ranks(9), pair.linears, dtype="fp32")


def test_a_change_near_the_rounding_of_the_weights_still_passes(tmp_path):
    """||dW|| / ||W|| of some 1e-6: fp32 rounds a large part of W + dW away, and the adapter is no worse for it."""
    pair = make_pair(tmp_path, "llama", blocks=8, size=3e-8)
    write_adapter(tmp_path / "adapter", pair.base, pair.factors, pair.ranks(64))
    found = check_reload(pair.base, tmp_path / "adapter", pair.factors, pair.ranks(64), pair.linears)
    assert found.relative > 1e-3, "else this would pass without the second part of the tolerance"


def _scaled(name, tensor):
    return tensor * 1.01 if name.endswith("layers.1.self_attn.v_proj.lora_B.weight") else tensor


def _left_out(name, tensor):
    return torch.zeros_like(tensor) if "layers.0.self_attn.k_proj.lora_B" in name else tensor


def _swapped(name, tensor):
    return tensor.flip(0) if "layers.0.mlp.down_proj.lora_A" in name else tensor


@pytest.mark.parametrize("harm", [_scaled, _left_out, _swapped])
def test_one_layer_that_is_wrong_fails(pairs, tmp_path, harm):
    pair = pairs["llama"]
    write_adapter(tmp_path, pair.base, pair.factors, pair.ranks(4))
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: harm(name, tensor).contiguous() for name, tensor in load_file(path).items()}, path)
    with pytest.raises(ReloadError, match="does not do what was factorised"):
        check_reload(pair.base, tmp_path, pair.factors, pair.ranks(4), pair.linears)


def test_a_wrong_scaling_fails(pairs, tmp_path):
    pair = pairs["gpt2"]
    write_adapter(tmp_path, pair.base, pair.factors, pair.ranks(4))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 8}))
    with pytest.raises(ReloadError):
        check_reload(pair.base, tmp_path, pair.factors, pair.ranks(4), pair.linears)


def test_nan_does_not_pass():
    assert not ReloadCheck(float("nan"), 1.0, 1.0, "fp32").is_passed
    assert ReloadCheck(0.0, 0.0, 1.0, "fp32").is_passed


def test_the_tokens_are_spread_over_the_vocabulary_and_never_leave_it():
    for vocabulary in (7, 200, 151_936):
        tokens = spread_tokens(vocabulary)
        assert 0 <= tokens.min() <= tokens.max() < vocabulary
        parts = torch.histc(tokens.float(), bins=min(vocabulary, 8), min=0, max=vocabulary)
        assert parts.min() > 0.5 * tokens.numel() / len(parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_can_be_moved_from_rank_to_rank_and_back(pairs, family):
    pair = pairs[family]
    model, tuned = load_model(pair.base), load_model(pair.tuned)
    before = {linear.name: model.get_submodule(linear.name).weight.clone() for linear in pair.linears}
    few, full = pair.ranks(2, 5), pair.ranks(999)
    add_change(model, pair.factors, few, pair.linears)
    add_change(model, pair.factors, full, pair.linears, before=few)
    for linear in pair.linears:
        weight = model.get_submodule(linear.name).weight
        assert torch.allclose(weight, tuned.get_submodule(linear.name).weight, atol=2e-6)
    add_change(model, pair.factors, pair.ranks(0), pair.linears, before=full)
    for linear in pair.linears:
        assert torch.allclose(model.get_submodule(linear.name).weight, before[linear.name], atol=2e-6)
