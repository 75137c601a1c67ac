"""What is particular to `svd` and to `random`."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.trainables.driver import execute
from tests.trainables.inits.made import SCALINGS, context_for, given, square_model, taught, write_factors
from tests.trainables.tiny_models import FAMILIES
from trainables import inits
from trainables.base import InputError
from trainables.inits.parts.layers import fill
from trainables.linalg.factors import Factors, load_factors
from trainables.student import StudentConfig, add_adapter
from trainables.training.models import block_linears, load_model

STUDENT = {"init": "svd", "steps": 1, "precision": "fp32"}
FULL = 64


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_svd_of_the_whole_change_starts_at_the_teachers_loss(tmp_path, family, scaling):
    before, after, folder = taught(family).before, taught(family).after, taught(family).export
    assert before - after > 0.02
    settings = {**STUDENT, "rank": FULL, **scaling}
    student = execute("student", settings, tmp_path / "s", inputs=given(family, svd_export=folder))
    assert student.metrics["initial_eval_loss"] == pytest.approx(after, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_truncated_start_is_the_best_approximation_at_every_layer(family):
    config = StudentConfig(**STUDENT, rank=3, lora_alpha=5.0, use_rslora=True)
    model = add_adapter(load_model(square_model(family)), config)
    inits.find("svd").start(model, config, context_for("svd", family))
    before, after = (block_linears(load_model(path)) for path in (square_model(family), taught(family).teacher))
    for name, layer in after.items():
        delta = layer.weight.detach() - before[name].weight.detach()
        # PEFT's own account of what the adapter adds to the stored weight, Conv1D's transposition included.
        added = model.get_base_model().get_submodule(name).get_delta_weight("default").detach()
        error = torch.linalg.norm(delta - added)
        torch.testing.assert_close(error, torch.linalg.norm(torch.linalg.svdvals(delta)[3:]), rtol=1e-3, atol=1e-6)


def test_the_scaling_of_each_layer_is_its_own():
    config = StudentConfig(**STUDENT, rank=FULL)
    patterns = {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"up_proj": 7}}
    adapter = LoraConfig(r=FULL, lora_alpha=FULL, target_modules="all-linear", task_type="CAUSAL_LM", **patterns)
    model = get_peft_model(load_model(square_model("llama")), adapter)
    inits.find("svd").start(model, config, context_for("svd", "llama"))
    taught_model = load_model(taught("llama").teacher)
    up = "model.layers.0.mlp.up_proj"
    found = model.get_base_model().get_submodule(up)
    assert found.scaling["default"] != 1
    expected = taught_model.get_submodule(up).weight - found.base_layer.weight
    torch.testing.assert_close(found.get_delta_weight("default"), expected, atol=1e-5, rtol=1e-3)
    assert model.get_base_model().get_submodule("model.layers.0.self_attn.q_proj").lora_A["default"].out_features == 8


def test_random_is_pefts_default_under_the_runs_seed():
    config = StudentConfig(rank=4, seed=11)
    torch.manual_seed(11)
    adapter = LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    reference = get_peft_model(load_model(square_model("qwen2")), adapter).state_dict()
    model = add_adapter(load_model(square_model("qwen2")), config)
    inits.find("random").start(model, config, context_for("random", "qwen2"))
    assert all(torch.equal(value, reference[name]) for name, value in model.state_dict().items())
    assert any("lora_A" in name and value.abs().max() > 0 for name, value in model.state_dict().items())


def test_a_layer_or_rank_that_the_export_lacks_is_named(tmp_path):
    few = write_factors(tmp_path / "few", {"a": Factors(torch.ones(2, 1), torch.ones(1), torch.ones(1, 2))})
    inputs = given("gpt2", svd_export=few)
    with pytest.raises(InputError, match=r"no factors for transformer.h.0.attn.c_attn.*the same targets"):
        execute("student", {**STUDENT, "rank": 1}, tmp_path / "s", inputs=inputs)
    whole = load_factors(taught("gpt2").export)
    low = write_factors(tmp_path / "low", {name: found.truncated(2) for name, found in whole.items()})
    with pytest.raises(InputError, match=r"student rank 3 is above the 2 that svd_export kept.*raise svd_export.rank"):
        execute("student", {**STUDENT, "rank": 3}, tmp_path / "s", inputs=given("gpt2", svd_export=low))


def test_a_weight_that_would_take_the_factors_by_broadcasting_is_refused():
    with pytest.raises(RuntimeError, match=r"x has the shape \[2, 3\] instead of \[1, 3\]$"):
        fill(torch.zeros(2, 3), torch.ones(1, 3), "x")


def test_unknown_inits_are_named_with_a_hint():
    with pytest.raises(InputError, match="Did you mean 'random'"):
        inits.find("randon")
