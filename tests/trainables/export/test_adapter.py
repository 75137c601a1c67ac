"""The adapter's folder against PEFT itself: which layers it adapts, with what scaling, and what it merges to."""

from __future__ import annotations

import dataclasses
import itertools
import json
import weakref
from collections.abc import Mapping

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tests.trainables.export.pairs import Pair, make_pair
from tests.trainables.tiny_models import FAMILIES
from trainables.base import InputError
from trainables.export.adapter import AdapterOptions, pattern, target_names, write_adapter
from trainables.linalg.factors import save_factors
from trainables.linalg.tensor_file import write_tensors


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return {family: make_pair(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


def loaded(pair: Pair, folder):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pair.base), folder)


def lora_layers(model):
    return {name: part for name, part in model.get_base_model().named_modules() if isinstance(part, LoraLayer)}


def weight_deltas(model):
    """Return what PEFT adds to each weight, in (out, in) orientation."""
    return {
        name: layer.get_delta_weight("default").T
        if isinstance(layer.get_base_layer(), Conv1D)
        else layer.get_delta_weight("default")
        for name, layer in lora_layers(model).items()
    }


OPTIONS = {
    "default": AdapterOptions(),
    "alpha": AdapterOptions(lora_alpha=32),
    "fractional alpha": AdapterOptions(lora_alpha=0.5),
    "rslora": AdapterOptions(use_rslora=True),
    "rslora alpha balanced": AdapterOptions(lora_alpha=7, use_rslora=True, balanced=True),
    "balanced": AdapterOptions(balanced=True),
}


@pytest.mark.parametrize(("family", "name"), itertools.product(FAMILIES, OPTIONS))
def test_peft_adds_the_truncated_change_whatever_the_scaling(pairs, tmp_path, family, name):
    """Ranks differ from layer to layer, so that each has a scaling of its own."""
    pair = pairs[family]
    ranks = pair.ranks(3, 8, 1, 5)
    write_adapter(tmp_path, pair.base, pair.factors, ranks, options=OPTIONS[name])
    deltas = weight_deltas(loaded(pair, tmp_path))
    assert set(deltas) == set(ranks)
    for layer, delta in deltas.items():
        wanted = pair.factors[layer].truncated(ranks[layer]).delta()
        assert torch.linalg.norm(delta - wanted) < 1e-6 * torch.linalg.norm(wanted), layer


@pytest.mark.parametrize("family", FAMILIES)
def test_full_rank_merges_to_the_tuned_weights(pairs, tmp_path, family):
    pair = pairs[family]
    write_adapter(tmp_path, pair.base, pair.factors, pair.ranks(999))
    merged = dict(loaded(pair, tmp_path).merge_and_unload().named_parameters())
    tuned = dict(AutoModelForCausalLM.from_pretrained(pair.tuned).named_parameters())
    for linear in pair.linears:
        assert torch.allclose(merged[linear.weight], tuned[linear.weight], atol=2e-6), linear.name


def test_by_default_every_scaling_is_one_although_ranks_differ(pairs, tmp_path):
    pair = pairs["llama"]
    write_adapter(tmp_path, pair.base, pair.factors, pair.ranks(3, 8, 1))
    layers = lora_layers(loaded(pair, tmp_path))
    assert {layer.scaling["default"] for layer in layers.values()} == {1.0}
    assert {layer.r["default"] for layer in layers.values()} == {3, 8, 1}


def test_a_name_that_ends_as_another_does_not_get_its_rank(tmp_path):
    """Twelve blocks, every layer with another rank than its neighbours in all of them."""
    pair = make_pair(tmp_path, "llama", blocks=12)
    ranks = {linear.name: 1 + index % 7 for index, linear in enumerate(pair.linears)}
    write_adapter(tmp_path / "adapter", pair.base, pair.factors, ranks)
    found = {name: layer.r["default"] for name, layer in lora_layers(loaded(pair, tmp_path / "adapter")).items()}
    assert found == ranks


def test_a_pattern_means_one_module():
    """As PEFT reads a key of rank_pattern (peft.utils.other.get_pattern_key)."""
    from peft.utils.other import get_pattern_key

    keys = [pattern("h.1.attn"), pattern("a.h.1.attn")]
    assert get_pattern_key(keys, "h.1.attn") == keys[0]
    assert get_pattern_key(keys, "a.h.1.attn") == keys[1]
    for other in ("h.11.attn", "b.h.1.attn", "h_1.attn", "h.1.attn.c_attn"):
        assert get_pattern_key(keys, other) == other
    assert get_pattern_key(["h.1.attn"], "b.h.1.attn") == "h.1.attn", "a bare name means more: hence the anchor"


def test_exactly_the_layers_with_a_rank_are_adapted(pairs, tmp_path):
    pair = pairs["gpt2"]
    ranks = {name: 2 if name.endswith("h.1.attn.c_proj") else 0 for name in pair.factors}
    size = write_adapter(tmp_path, pair.base, pair.factors, ranks)
    assert list(lora_layers(loaded(pair, tmp_path))) == ["transformer.h.1.attn.c_proj"]
    assert (
        size
        == 2 * (64 + 64)
        == sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values())
    )


def test_targets_are_types_where_these_mean_no_other_layer_and_names_where_they_do():
    modules = ["m", "m.0.q", "m.1.q", "m.0.attn.c", "m.0.mlp.c", "m.1.attn.c", "m.1.mlp.c"]
    assert target_names(modules, ["m.0.q", "m.1.q"]) == ["q"]
    assert target_names(modules, ["m.1.q"]) == ["m.1.q"]
    assert target_names(modules, ["m.0.attn.c", "m.1.attn.c", "m.0.q", "m.1.q"]) != ["c", "q"]
    with pytest.raises(InputError, match=r"without x\.q"):
        target_names(["q", "x.q"], ["q"])


def test_the_configuration_is_complete_and_names_no_path_of_this_machine(pairs, tmp_path):
    pair = pairs["gpt2"]
    name = {"base_name": "org/base", "base_revision": "abc"}
    write_adapter(tmp_path, pair.base, pair.factors, pair.ranks(2, 4), **name)
    text = (tmp_path / "adapter_config.json").read_text()
    config = json.loads(text)
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", "abc")
    assert config["fan_in_fan_out"] is True
    assert config["inference_mode"] is True
    assert config["task_type"] == "CAUSAL_LM"
    assert str(pair.base) not in text


def test_bf16_is_stored_as_such_and_close(pairs, tmp_path):
    pair = pairs["qwen2"]
    write_adapter(tmp_path, pair.base, pair.factors, pair.ranks(6), options=AdapterOptions(dtype="bf16"))
    assert {tensor.dtype for tensor in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.bfloat16}
    for layer, delta in weight_deltas(loaded(pair, tmp_path)).items():
        wanted = pair.factors[layer].truncated(6).delta()
        assert 1e-4 < torch.linalg.norm(delta - wanted) / torch.linalg.norm(wanted) < 2**-7


def test_an_adapter_of_nothing_is_refused(pairs, tmp_path):
    with pytest.raises(InputError, match="equals the base"):
        write_adapter(tmp_path, pairs["llama"].base, pairs["llama"].factors, pairs["llama"].ranks(0))


class _Fleeting(Mapping):
    """Factors made when they are asked for; notes how many of earlier layers are still in memory then."""

    def __init__(self, factors):
        self.factors, self.made, self.most = factors, [], 0

    def __getitem__(self, name):
        self.most = max(self.most, sum(one() is not None for one in self.made))
        made = dataclasses.replace(self.factors[name])
        self.made.append(weakref.ref(made))
        return made

    def __iter__(self):
        return iter(self.factors)

    def __len__(self):
        return len(self.factors)


def test_files_are_written_layer_by_layer_with_the_factors_of_one_in_memory(pairs, tmp_path):
    """The layer before may live on while the next one is asked for, since its last tensor is just being written."""
    pair = pairs["llama"]
    assert len(pair.factors) > 10
    for_adapter, for_export = _Fleeting(pair.factors), _Fleeting(pair.factors)
    write_adapter(tmp_path, pair.base, for_adapter, pair.ranks(4))
    shapes = {name: (len(found.u), found.vt.shape[1], found.rank) for name, found in pair.factors.items()}
    save_factors(tmp_path, shapes, ((name, for_export[name]) for name in shapes))
    assert max(for_adapter.most, for_export.most) <= 1


def test_tensors_are_written_in_order_or_not_at_all(tmp_path):
    path, shapes = tmp_path / "x.safetensors", {"a": (2, 3), "b": (4,)}
    a, b = torch.randn(3, 2).T, torch.randn(4)
    write_tensors(path, shapes, [("a", a), ("b", b)], torch.float32)
    assert torch.equal(load_file(path)["a"], a)
    assert torch.equal(load_file(path)["b"], b)
    path.unlink()
    for wrong in ([("a", a)], [("b", b), ("a", a)], [("a", b), ("b", b)]):
        with pytest.raises(ValueError):
            write_tensors(path, shapes, wrong, torch.float32)
    assert list(tmp_path.iterdir()) == []
