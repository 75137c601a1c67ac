from __future__ import annotations

import functools
import inspect
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.trainables.driver import execute
from tests.trainables.tiny_models import FAMILIES, base_model, dataset, examples
from trainables import inits
from trainables.base import Context, InputError, Place
from trainables.inits.parts.layers import fill
from trainables.linalg.factors import Factors, load_factors, save_factors
from trainables.student import StudentConfig, add_adapter
from trainables.training.models import block_linears, load_model

TEACHER = {"steps": 12, "batch_size": 8, "eval_every": 12, "precision": "fp32", "learning_rate": 5e-3}
TEACHER |= {"parameters": "linears"}
STUDENT = {"init": "svd", "steps": 1, "precision": "fp32"}
FULL = 64


@functools.cache
def square_model(family: str) -> Path:
    """Return a tiny model all of whose linear layers have full rank 64: key and value heads are not grouped."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(tempfile.mkdtemp(prefix=f"square-{family}-"))
    shutil.copytree(base_model(family), folder, dirs_exist_ok=True)
    if family != "gpt2":
        config = AutoConfig.from_pretrained(folder, num_key_value_heads=4)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@functools.cache
def taught(family: str) -> tuple[float, float, Path]:
    """Return the losses before and after a linears-only teacher, and the exact factors of its change."""
    folder = Path(tempfile.mkdtemp(prefix=f"taught-{family}-"))
    metrics = execute("teacher", TEACHER, folder / "teacher", inputs=given(family)).metrics
    before, after = (block_linears(load_model(path)) for path in (square_model(family), folder / "teacher"))
    factors = {}
    for name, layer in after.items():
        delta = layer.weight.detach() - before[name].weight.detach()
        factors[name] = Factors(*torch.linalg.svd(delta.T if family == "gpt2" else delta, full_matrices=False))
    shapes = {name: (len(found.u), found.vt.shape[1], found.rank) for name, found in factors.items()}
    save_factors(folder, shapes, factors.items())
    return metrics["initial_eval_loss"], metrics["final_eval_loss"], folder


def given(family: str, **more: Path) -> dict[str, Path]:
    return {"base_model": square_model(family), "dataset": dataset(), **more}


def context_of(tmp_path: Path, family: str) -> Context:
    return Context("student-0", given(family, svd_export=taught(family)[2]), tmp_path, tmp_path, Place())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scaling", [{}, {"lora_alpha": 16.0}, {"lora_alpha": 3.0, "use_rslora": True}])
def test_the_svd_of_the_whole_change_starts_at_the_teachers_loss(tmp_path, family, scaling):
    before, after, folder = taught(family)
    assert before - after > 0.02
    settings = {**STUDENT, "rank": FULL, **scaling}
    student = execute("student", settings, tmp_path / "s", inputs=given(family, svd_export=folder))
    assert student.metrics["initial_eval_loss"] == pytest.approx(after, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_truncated_start_is_the_best_approximation_at_every_layer(tmp_path, family):
    config = StudentConfig(**STUDENT, rank=3, lora_alpha=5.0, use_rslora=True)
    model = add_adapter(load_model(square_model(family)), config)
    inits.find("svd").start(model, config, context_of(tmp_path, family))
    before, after = (block_linears(load_model(path)) for path in (square_model(family), taught(family)[2] / "teacher"))
    for name, layer in after.items():
        delta = layer.weight.detach() - before[name].weight.detach()
        # PEFT's own account of what the adapter adds to the stored weight, Conv1D's transposition included.
        added = model.get_base_model().get_submodule(name).get_delta_weight("default").detach()
        error = torch.linalg.norm(delta - added)
        torch.testing.assert_close(error, torch.linalg.norm(torch.linalg.svdvals(delta)[3:]), rtol=1e-3, atol=1e-6)


def test_the_scaling_of_each_layer_is_its_own(tmp_path):
    config = StudentConfig(**STUDENT, rank=FULL)
    patterns = {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"up_proj": 7}}
    adapter = LoraConfig(r=FULL, lora_alpha=FULL, target_modules="all-linear", task_type="CAUSAL_LM", **patterns)
    model = get_peft_model(load_model(square_model("llama")), adapter)
    inits.find("svd").start(model, config, context_of(tmp_path, "llama"))
    taught_model = load_model(taught("llama")[2] / "teacher")
    up = "model.layers.0.mlp.up_proj"
    found = model.get_base_model().get_submodule(up)
    assert found.scaling["default"] != 1
    expected = taught_model.get_submodule(up).weight - found.base_layer.weight
    torch.testing.assert_close(found.get_delta_weight("default"), expected, atol=1e-5, rtol=1e-3)
    assert model.get_base_model().get_submodule("model.layers.0.self_attn.q_proj").lora_A["default"].out_features == 8


def test_random_is_pefts_default_under_the_runs_seed(tmp_path):
    config = StudentConfig(rank=4, seed=11)
    torch.manual_seed(11)
    adapter = LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    reference = get_peft_model(load_model(square_model("qwen2")), adapter).state_dict()
    model = add_adapter(load_model(square_model("qwen2")), config)
    inits.find("random").start(model, config, context_of(tmp_path, "qwen2"))
    assert all(torch.equal(value, reference[name]) for name, value in model.state_dict().items())
    assert any("lora_A" in name and value.abs().max() > 0 for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", inits.names())
def test_every_init_keeps_its_contract(tmp_path, name):
    init = inits.find(name)
    assert init.name == name
    assert init.label
    assert init.reference
    assert set(init.needs) <= {"svd_export"}
    assert list(inspect.signature(init.start).parameters) == ["model", "config", "context"]
    settings = {"init": name, "rank": 4, "steps": 2, "precision": "fp32", "learning_rate": 1e-3}
    inputs = given("qwen2", **({"svd_export": taught("qwen2")[2]} if init.needs else {}))
    first, second = (execute("student", settings, tmp_path / folder, inputs=inputs) for folder in ("one", "two"))
    assert first.metrics == second.metrics  # the seed decides
    config = StudentConfig(**settings)
    model = add_adapter(load_model(square_model("qwen2")), config)
    base = {key: value.clone() for key, value in model.state_dict().items() if "lora_" not in key}
    init.start(model, config, context_of(tmp_path, "qwen2"))
    ids = torch.tensor([examples(1)[0].input_ids])
    assert torch.isfinite(model(ids).logits).all()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in base.items())


def test_a_layer_or_rank_that_the_export_lacks_is_named(tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    save_factors(few, {"a": (2, 2, 1)}, [("a", Factors(torch.ones(2, 1), torch.ones(1), torch.ones(1, 2)))])
    inputs = given("gpt2", svd_export=few)
    with pytest.raises(InputError, match=r"no factors for transformer.h.0.attn.c_attn.*the same targets"):
        execute("student", {**STUDENT, "rank": 1}, tmp_path / "s", inputs=inputs)
    low = tmp_path / "low"
    low.mkdir()
    whole = load_factors(taught("gpt2")[2])
    shapes = {name: (len(found.u), found.vt.shape[1], 2) for name, found in whole.items()}
    save_factors(low, shapes, ((name, found.truncated(2)) for name, found in whole.items()))
    with pytest.raises(InputError, match=r"student rank 3 is above the 2 that svd_export kept.*raise svd_export.rank"):
        execute("student", {**STUDENT, "rank": 3}, tmp_path / "s", inputs=given("gpt2", svd_export=low))


@pytest.mark.parametrize("rank", [1, 4])
def test_empty_shards_are_refused_by_name_and_not_taken_for_filled_weights(tmp_path, rank):
    """DeepSpeed's stage 3 leaves every parameter with the shape [0] outside a gather."""
    config = StudentConfig(**STUDENT, rank=rank)
    model = add_adapter(load_model(square_model("qwen2")), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.empty(0)
    said = r"q_proj\.lora_A has the shape \[0\] instead of \[[14], 64\]; gather ZeRO-3's parameters"
    with pytest.raises(RuntimeError, match=said):
        inits.find("svd").start(model, config, context_of(tmp_path, "qwen2"))


def test_a_weight_that_would_take_the_factors_by_broadcasting_is_refused():
    with pytest.raises(RuntimeError, match=r"x has the shape \[2, 3\] instead of \[1, 3\]$"):
        fill(torch.zeros(2, 3), torch.ones(1, 3), "x")


def test_a_model_without_an_adapter_is_not_taken_for_a_started_student(tmp_path):
    config = StudentConfig(**STUDENT, rank=4)
    model = add_adapter(load_model(square_model("qwen2")), config)
    with pytest.raises(RuntimeError, match="has no LoRA layer"):
        inits.find("svd").start(SimpleNamespace(get_base_model=model.unload), config, context_of(tmp_path, "qwen2"))


def test_unknown_inits_are_named_with_a_hint():
    with pytest.raises(InputError, match="Did you mean 'random'"):
        inits.find("randon")
