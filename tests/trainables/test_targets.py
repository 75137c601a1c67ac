"""Layouts, targets and the choice of layers, against PEFT's own choice and the models' own modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tests.trainables.architectures import ARCHITECTURES, architecture
from tests.trainables.tiny_models import FAMILIES, base_model
from trainables.base import InputError
from trainables.checkpoint_files import read_headers
from trainables.targets import (
    Linear,
    check_targets,
    choose,
    depth,
    group,
    layer_types,
    linear_shapes,
    read_layout,
    select,
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "targets", ["all-linear", "ALL-LINEAR", r".*\.1\..*proj", ["o_proj", "c_attn"], ["down_proj", "mlp.c_proj"]]
)
def test_targets_are_those_that_peft_would_adapt(family, targets):
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

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


def test_types_are_the_same_in_every_block_and_for_every_expert():
    bert = ["layer.0.attention.output.dense", "layer.0.output.dense", "layer.1.intermediate.dense"]
    assert list(layer_types(bert).values()) == ["attention.output.dense", "layer.output.dense", "intermediate.dense"]
    experts = ["h.0.mlp.experts.0.up", "h.0.mlp.experts.7.up", "h.1.mlp.up"]
    assert list(layer_types(experts).values()) == ["experts.up", "experts.up", "mlp.up"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_linear_layer_multiplies_by_its_stored_weight_or_where_so_marked_by_its_transpose(name):
    """GPT-2's square c_proj cannot tell by its shape; the product can."""
    model = AutoModelForCausalLM.from_pretrained(architecture(name))
    linears = read_layout(architecture(name)).linears
    assert set(linears) == {n for n, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    for linear in linears.values():
        module = model.get_submodule(linear.name)
        weight = module.weight.T if linear.is_transposed else module.weight
        assert tuple(weight.shape) == (linear.out_features, linear.in_features)
        x = torch.randn(3, linear.in_features)
        assert torch.allclose(module(x), nn.functional.linear(x, weight, module.bias), atol=1e-5), linear.name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_tensor_of_a_checkpoint_that_transformers_saved_is_in_the_layout_once(name):
    stored = read_headers(architecture(name))
    parameters = read_layout(architecture(name)).parameters
    found = [[stored_name for stored_name in item.names if stored_name in stored] for item in parameters]
    assert all(len(names) == 1 for names in found)
    assert sorted(names[0] for names in found) == sorted(stored)
    assert all(stored[names[0]].shape == item.shape for names, item in zip(found, parameters, strict=True))


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("qwen2", {"", "1-D", "embeddings", "output head"}),
        ("llama", {"", "1-D", "output head tied to the embeddings"}),
        ("gpt2", {"", "1-D", "embeddings", "output head tied to the embeddings"}),
        ("phi3", {"", "1-D", "embeddings", "output head"}),
        ("qwen2_moe", {"", "1-D", "embeddings", "output head", "experts", "no linear layer"}),
        ("mixtral", {"", "1-D", "embeddings", "output head", "experts", "no linear layer"}),
    ],
)
def test_what_no_adapter_holds_has_a_reason_and_what_one_can_hold_has_none(name, reasons):
    layout = read_layout(architecture(name))
    assert {item.reason for item in layout.parameters} == reasons
    adaptable = {linear.weight for linear in select(layout, "all-linear")}
    assert {item.name for item in layout.parameters if not item.reason} == adaptable


def test_only_embeddings_and_head_have_a_row_for_each_token():
    tokens = {item.name for item in read_layout(base_model("gpt2")).parameters if item.has_vocabulary_rows}
    assert tokens == {"transformer.wte.weight"}
    tokens = {item.name for item in read_layout(base_model("qwen2")).parameters if item.has_vocabulary_rows}
    assert tokens == {"model.embed_tokens.weight", "lm_head.weight"}


def test_experts_that_loading_fuses_stand_in_the_layout_as_they_are_stored():
    """transformers 5 holds all experts of a block in one 3-D tensor, and files hold one matrix for each of them."""
    layout = read_layout(architecture("mixtral"))
    experts = [item for item in layout.parameters if item.reason == "experts"]
    assert len(experts) == 2 * 4 * 3
    assert experts[0].name == "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    assert not any("experts" in linear for linear in layout.linears)
    router = next(item for item in layout.parameters if item.name == "model.layers.1.mlp.gate.weight")
    assert "model.layers.1.block_sparse_moe.gate.weight" in router.names


def test_a_config_without_weights_has_a_layout_too(tmp_path):
    for name in ("mixtral", "gpt2"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_bytes((architecture(name) / "config.json").read_bytes())
        bare, whole = read_layout(folder), read_layout(architecture(name))
        assert bare.linears == whole.linears
    assert bare.parameters == whole.parameters


LLAMA = [f"model.layers.{index}.{name}" for index in range(12) for name in ("self_attn.q_proj", "mlp.up_proj")]
GPT2 = [f"transformer.h.{index}.{name}" for index in range(3) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_proj")]
BERT = [
    f"bert.encoder.layer.{index}.{name}"
    for index in range(2)
    for name in ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
]


def _chosen(names: list[str], *options: str) -> list[str]:
    linears = [Linear(name, 4, 4) for name in names]
    return [linear.name for linear in choose(linears, [option.split(",") for option in options])]


def test_a_depth_is_one_block_and_a_range_has_both_its_ends():
    assert _chosen(LLAMA, "1") == LLAMA[2:4]  # and not blocks 10 and 11
    assert _chosen(LLAMA, "2-4") == LLAMA[4:10]
    assert _chosen(GPT2, "0-1") == GPT2[:6]
    assert _chosen(BERT, "1") == BERT[4:]


def test_layers_are_chosen_by_type_name_or_glob():
    assert _chosen(LLAMA, "q_proj") == LLAMA[::2]
    assert _chosen(GPT2, "attn.c_proj") == GPT2[1::3]
    assert _chosen(GPT2, "c_proj") == [name for name in GPT2 if name.endswith("c_proj")]
    assert _chosen(LLAMA, "model.layers.1.mlp.up_proj") == [LLAMA[3]]
    assert _chosen(LLAMA, "model.layers.1.*") == LLAMA[2:4]
    assert _chosen(LLAMA, "layers.1") == LLAMA[2:4]
    assert _chosen(BERT, "layer.?.output.*") == [BERT[3], BERT[7]]
    assert _chosen(["lm_head", *LLAMA], "lm_head") == ["lm_head"]


def test_alternatives_of_one_option_add_up_and_options_must_all_hold():
    assert _chosen(LLAMA, "0,11") == LLAMA[:2] + LLAMA[-2:]
    assert _chosen(LLAMA, "0-1", "mlp") == [LLAMA[1], LLAMA[3]]
    assert _chosen(GPT2, "attention,mlp", "2,0") == GPT2[:3] + GPT2[6:]
    assert _chosen(GPT2, "2,0") == GPT2[:3] + GPT2[6:]  # the model's order, not the option's
    assert _chosen(LLAMA) == LLAMA


def test_groups_are_told_by_the_names_of_llama_gpt2_and_bert():
    assert _chosen(LLAMA, "attention") == LLAMA[::2]
    assert _chosen(GPT2, "attention") == [name for name in GPT2 if ".attn." in name]
    assert _chosen(BERT, "attention") == [name for name in BERT if ".attention." in name]
    for names in (LLAMA, GPT2, BERT):
        assert sorted(_chosen(names, "attention") + _chosen(names, "mlp")) == sorted(names)
    assert _chosen(["lm_head", "bert.pooler.dense", *BERT], "other") == ["lm_head", "bert.pooler.dense"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_linear_layer_of_a_block_is_attention_or_mlp(name):
    layout = read_layout(architecture(name))
    groups = {linear: group(linear) for linear in layout.linears}
    assert {linear for linear, found in groups.items() if found == "other"} == {
        linear for linear in groups if depth(linear) is None
    }
    assert set(groups.values()) >= ({"attention"} if name == "mixtral" else {"attention", "mlp"})


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("q_prj", r"--layers 'q_prj' matches none of the 24 linear layers\. Did you mean 'q_proj'\?"),
        ("atention", "Did you mean 'attention'"),
        ("12", r"'12' matches none .*Depths: 0-11; groups: attention, mlp; types: q_proj, up_proj"),
        ("4-2", "'4-2' matches none"),
        ("", "'' matches none"),
        ("0,model.layer.3.*", r"'model\.layer\.3\.\*' matches none .*a glob such as 'model\.layers\.0\.\*'"),
        ("proj", "'proj' matches none"),
        ("other", "'other' matches none"),
    ],
)
def test_an_alternative_that_matches_nothing_is_named_with_what_there_is(option, said):
    with pytest.raises(InputError, match=said) as raised:
        _chosen(LLAMA, option)
    assert "\n" not in str(raised.value)


def test_options_that_exclude_each_other_are_an_error_and_not_an_empty_export():
    with pytest.raises(InputError, match="--layers q_proj and --layers mlp: no linear layer satisfies all of them"):
        _chosen(LLAMA, "q_proj", "mlp")


def test_planning_a_choice_of_layers_imports_no_torch():
    code = (
        "import sys; from trainables.targets import Linear, choose, linear_shapes\n"
        "choose([Linear('h.0.attn.q', 4, 4)], [['0', 'attention']])\n"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


def test_a_model_without_linear_layers_is_not_asked_whether_it_meant_what_it_said():
    with pytest.raises(InputError, match=r"matches nothing: no tensor of the model is a linear layer's weight$"):
        check_targets("all-linear", [])
