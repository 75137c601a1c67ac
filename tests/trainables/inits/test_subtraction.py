"""Inits that subtract what they start with: one function in training, in the saved adapter and after a restart."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from tests.trainables.driver import Driven, execute
from tests.trainables.gang import Job, drive_gang, work
from tests.trainables.inits.made import (
    SCALINGS,
    cases,
    context_for,
    fresh,
    given_for,
    held_out_loss,
    square_model,
    started,
)
from tests.trainables.tiny_models import FAMILIES, examples
from trainables import inits
from trainables.base import Place, Stopped
from trainables.inits.parts.layers import adapted_layers
from trainables.inits.parts.subtraction import FILE, settle, subtracted
from trainables.student import StudentConfig, add_adapter, save_adapter
from trainables.training.batches import collate
from trainables.training.config import Precision
from trainables.training.forward import summed_loss
from trainables.training.models import autocast, block_linears, precast_frozen
from trainables.training.workers import Workers

SUBTRACTED = ["pissa", "svd_subtracted"]
SETTINGS = {"rank": 4, "steps": 6, "batch_size": 4, "eval_every": 2, "precision": "fp32", "learning_rate": 1e-2}
ADAPTER = "adapter/adapter_model.safetensors"


def settings_for(name: str, **more):
    return {**SETTINGS, "init": name, **more}


def moved(model):
    """Move A and B away from their start, as training does."""
    torch.manual_seed(5)
    with torch.no_grad():
        for part in adapted_layers(model):
            for half in (part.down, part.up):
                half.weight += 2 * half.weight.std() * torch.randn_like(half.weight)
    return model


def dense(model, family):
    """Return the same student as PiSSA would have it: the start subtracted from the base weight, a plain adapter."""
    plain = fresh(family)
    state = {key: value for key, value in model.state_dict().items() if "lora_" in key}
    (config,) = model.peft_config.values()
    for part in adapted_layers(model):
        product = part.scaling * (part.up.start @ part.down.start)  # B_0's sign is turned already
        with torch.no_grad():
            weight = block_linears(plain)[part.name].weight
            weight += product.T if family == "gpt2" else product
    wrapped = get_peft_model(plain, config)
    wrapped.load_state_dict(state, strict=False)
    return wrapped


@pytest.mark.parametrize(("name", "family", "scaling"), cases(SUBTRACTED))
def test_beside_the_base_and_inside_of_it_are_one_function(name, family, scaling):
    model = moved(started(name, family, **scaling))
    found, expected, base = (logits(item) for item in (model, dense(model, family), fresh(family)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # logits of 1; the rounding of sums in fp32
    assert (expected - base).abs().max() > 0.05


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor([examples(1)[0].input_ids])).logits


@pytest.mark.parametrize("name", SUBTRACTED)
def test_in_training_dropout_falls_on_the_adapter_and_not_on_what_is_subtracted(name):
    model = moved(started(name, "llama", lora_dropout=0.5))
    losses, gradients = [], []
    for trained in (model, dense(model, "llama")):
        trained.train()
        torch.manual_seed(3)
        loss = summed_loss(trained.get_base_model(), collate(examples(4), 0))
        loss.backward()
        losses.append(loss.item())
        gradients.append({key: value.grad for key, value in trained.named_parameters() if value.requires_grad})
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][key], rtol=1e-3, atol=1e-4)
    without_dropout = summed_loss(model.eval().get_base_model(), collate(examples(4), 0)).item()
    assert losses[0] != pytest.approx(without_dropout, rel=1e-4)


@pytest.mark.parametrize(("family", "scaling"), [*zip(FAMILIES, SCALINGS, strict=True), ("gpt2", SCALINGS[2])])
def test_pissa_is_pefts_in_factors_course_and_conversion(tmp_path, family, scaling):
    """Against PEFT used as its documentation says: init_lora_weights="pissa", train, convert while saving."""
    config = StudentConfig(**settings_for("pissa", **scaling))
    theirs = get_peft_model(fresh(family), peft_config(config, "pissa"))
    ours = started("pissa", family, **scaling)
    state = ours.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in theirs.state_dict().items() if "lora_" in key)
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "start")
    assert train(ours) == pytest.approx(train(theirs), abs=1e-5)
    save_adapter(ours, tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    found, expected = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "theirs")]
    for key in ("r", "lora_alpha", "use_rslora", "init_lora_weights", "fan_in_fan_out"):
        assert configs[0][key] == pytest.approx(configs[1][key])


def peft_config(config, init):
    scale = {"r": config.rank, "lora_alpha": config.alpha, "use_rslora": config.use_rslora}
    return LoraConfig(**scale, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=init)


def train(model):
    """Return the losses of five plain steps."""
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer, losses = torch.optim.AdamW(parameters, lr=3e-4), []
    for step in range(5):
        loss = summed_loss(model.train().get_base_model(), collate(examples(4, seed=step), 0)) / 20
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("name", "family", "precision"),
    [
        ("pissa", "gpt2", "bf16"),
        ("pissa", "llama", "fp32"),
        ("pissa", "qwen2", "bf16"),
        ("svd_subtracted", "gpt2", "fp32"),
        ("svd_subtracted", "llama", "bf16"),
        ("svd_subtracted", "qwen2", "fp32"),
    ],
)
def test_plain_peft_on_the_original_base_gives_the_loss_that_training_measured(tmp_path, name, family, precision):
    """To the bit, also in bf16, where the trained function and the reloaded one would differ if W had been changed."""
    settings = settings_for(name, precision=precision, lora_alpha=6.0, use_rslora=True)
    driven = execute("student", settings, tmp_path / "s", inputs=given_for(name, family))
    again = PeftModel.from_pretrained(fresh(family), tmp_path / "s/adapter")
    assert held_out_loss(again, precision) == driven.metrics["final_eval_loss"]
    assert again.peft_config["default"].r == 2 * SETTINGS["rank"]
    assert again.peft_config["default"].init_lora_weights is True
    assert [part.scaling for part in adapted_layers(again)] == pytest.approx(
        [6.0 / 2] * (8 if family == "gpt2" else 14)
    )


@pytest.mark.parametrize("name", SUBTRACTED)
def test_evaluate_reports_the_loss_that_training_measured(tmp_path, name):
    driven = execute("student", settings_for(name, precision="bf16"), tmp_path / "s", inputs=given_for(name, "llama"))
    facts = tmp_path / "dataset"
    shutil.copytree(given_for(name, "llama")["dataset"], facts)
    (facts / "dataset.json").write_text(json.dumps({"pad_id": 0, "eos_id": 1, "task": "text"}))
    inputs = {"base_model": square_model("llama"), "dataset": facts, "subject": tmp_path / "s"}
    found = execute("evaluate", {"split": "validation", "precision": "bf16"}, tmp_path / "e", inputs=inputs)
    assert found.metrics["validation_loss"] == driven.metrics["final_eval_loss"]


@pytest.mark.parametrize("name", SUBTRACTED)
def test_the_best_adapter_is_saved_like_the_last(tmp_path, name):
    settings = settings_for(name, learning_rate=3.0, steps=12, batch_size=2)
    driven = execute("student", settings, tmp_path / "s", inputs=given_for(name, "qwen2"))
    assert 0 < driven.metrics["best_step"] < 12, "the rate is meant to overshoot"
    again = PeftModel.from_pretrained(fresh("qwen2"), tmp_path / "s/best/adapter")
    assert held_out_loss(again) == driven.metrics["best_eval_loss"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SUBTRACTED)
def test_casting_the_base_costs_the_start_nothing_that_a_dense_difference_would_pay(name, precision: Precision):
    """In bf16 W - s B A is rounded elsewhere than W. Beside the base equal products cancel in fp32 sums, and what is
    left of them is below half a unit of the bf16 output: measured 0, on the tiny models and on SmolLM2."""
    base = held_out_loss(fresh("llama"), precision)
    model = started(name, "llama")
    changed = dense(model, "llama")
    assert held_out_loss(model, precision) == pytest.approx(base, abs=1e-6)
    assert abs(held_out_loss(changed, precision) - base) < 1e-5 or precision == "bf16"
    if precision == "bf16":
        assert abs(held_out_loss(changed, precision) - base) > 1e-5


def test_casting_beforehand_changes_no_bit_of_what_autocast_does():
    model = moved(started("pissa", "gpt2"))
    outputs = []
    for is_precast in (False, True):
        if is_precast:
            precast_frozen(model, "bf16")
        with autocast("bf16", torch.device("cpu")), torch.no_grad():
            outputs.append(model.eval()(torch.tensor([examples(1)[0].input_ids])).logits)
    assert torch.equal(*outputs)
    assert {half.start.dtype for half in subtracted(model).values()} == {torch.float32}


def cut(tmp_path, name, folder="cut", after=4):
    """Run until a stop is asked for; return what was seen and the checkpoint."""
    seen, options = Driven(), {"inputs": given_for(name, "qwen2")}
    with pytest.raises(Stopped):
        execute("student", settings_for(name), tmp_path / folder, **options, stop_after=after, into=seen)
    (newest,) = tmp_path.joinpath(f"{folder}.checkpoints").glob("step-*")
    return seen, newest


@pytest.mark.parametrize("name", SUBTRACTED)
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(tmp_path, name):
    inputs = given_for(name, "qwen2")
    whole = execute("student", settings_for(name), tmp_path / "whole", inputs=inputs)
    seen, newest = cut(tmp_path, name)
    rest = execute("student", settings_for(name), tmp_path / "rest", inputs=inputs, resume_from=newest)
    assert [*seen.progress, *rest.progress] == whole.progress
    assert rest.metrics == whole.metrics
    first, second = (load_file(tmp_path / folder / ADAPTER) for folder in ("whole", "rest"))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    # Beside this attempt's checkpoints, too: the one after it will not see the first's.
    assert (tmp_path / "rest.checkpoints" / FILE).read_bytes() == (newest.parent / FILE).read_bytes()


def test_what_is_subtracted_is_read_and_not_decomposed_again(tmp_path):
    """Another machine may decompose W with other signs, or two close directions the other way round."""
    _, newest = cut(tmp_path, "pissa")
    start = load_file(newest.parent / FILE)
    save_file({key: -value for key, value in start.items()}, newest.parent / FILE)  # (-B_0)(-A_0): the same product
    options = {"inputs": given_for("pissa", "qwen2")}
    execute("student", settings_for("pissa"), tmp_path / "rest", **options, resume_from=newest)
    found = load_file(tmp_path / "rest" / ADAPTER)
    name = "model.layers.1.mlp.up_proj.lora_A"
    assert torch.equal(found[f"base_model.model.{name}.weight"][4:], -start[f"{name}.default.weight"])


def test_a_plain_adapter_leaves_nothing_beside_its_checkpoints(tmp_path):
    _, newest = cut(tmp_path, "random")
    assert not (newest.parent / FILE).exists()


def test_a_warm_worker_keeps_pissas_factors_for_the_same_rank_only():
    context = context_for("pissa", "gpt2")
    for rank in (4, 4, 2):
        config = StudentConfig(init="pissa", rank=rank)
        model = add_adapter(fresh("gpt2"), config)
        inits.find("pissa").start(model, config, context)
        expected = started("pissa", "gpt2", rank=rank).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    ((a, _), *_) = context.cache["pissa"][1].values()
    assert a.shape[0] == 2


def test_a_subtracted_adapter_refuses_to_be_merged_and_is_merged_once_it_is_saved(tmp_path):
    model = moved(started("svd_subtracted", "qwen2"))
    for is_safe in (False, True):
        with pytest.raises(NotImplementedError):
            model.merge_adapter(safe_merge=is_safe)
    save_adapter(model, tmp_path / "a")
    again = PeftModel.from_pretrained(fresh("qwen2"), tmp_path / "a").merge_and_unload()
    assert held_out_loss(again) == pytest.approx(held_out_loss(model), abs=5e-6)


def test_ranks_and_alphas_of_single_layers_are_doubled_too(tmp_path):
    patterns = {"rank_pattern": {"q_proj": 6}, "alpha_pattern": {"up_proj": 7}}
    for use_rslora in (False, True):
        config = LoraConfig(r=4, lora_alpha=5, target_modules="all-linear", use_rslora=use_rslora, **patterns)
        model = get_peft_model(fresh("llama"), config)
        inits.find("pissa").start(model, StudentConfig(init="pissa"), context_for("pissa", "llama"))
        expected = held_out_loss(moved(model))
        save_adapter(model, tmp_path / "a")
        assert held_out_loss(PeftModel.from_pretrained(fresh("llama"), tmp_path / "a")) == pytest.approx(
            expected, abs=1e-6
        )
        assert {part.rank for part in adapted_layers(model)} == {4, 6}


def test_activations_computed_again_give_the_same_course(tmp_path):
    plain, again = (
        execute(
            "student",
            settings_for("pissa", lora_dropout=0.2),
            tmp_path / str(saves),
            inputs=given_for("pissa", "llama"),
            place=Place(gradient_checkpointing=saves),
        )
        for saves in (False, True)
    )
    assert again.progress == plain.progress


def test_a_model_in_evaluation_mode_can_be_started_too():
    model = add_adapter(fresh("llama"), StudentConfig(rank=4)).eval()
    inits.find("pissa").start(model, StudentConfig(init="pissa", rank=4), context_for("pissa", "llama"))
    tokens = torch.tensor([examples(1)[0].input_ids])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, fresh("llama")(tokens).logits, rtol=0, atol=1e-5)


def test_settling_on_ones_own_changes_nothing(tmp_path):
    model = started("svd_subtracted", "gpt2")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    starts = {key: half.start.clone() for key, half in subtracted(model).items()}
    context = dataclasses.replace(context_for("svd_subtracted", "gpt2"), checkpoints=tmp_path)
    settle(model, context, Workers())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    kept = load_file(tmp_path / FILE)
    assert kept.keys() == starts.keys()
    assert all(torch.equal(value, starts[key]) for key, value in kept.items())


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("name", SUBTRACTED)
def test_a_gang_takes_the_course_of_one_process(tmp_path, name, stage):
    inputs = given_for(name, "qwen2")
    expected = execute("student", settings_for(name), tmp_path / "one", inputs=inputs)
    place = Place(zero_stage=stage, workers=2, device="cpu", per_device_batch_size=2)
    found = drive_gang("student", settings_for(name), tmp_path / "gang", inputs=inputs, place=place)
    for column in ("loss", "grad_norm", "eval_loss"):
        assert found.column(column) == pytest.approx(expected.column(column), abs=1e-4)
    again = PeftModel.from_pretrained(fresh("qwen2"), tmp_path / "gang/adapter")
    assert held_out_loss(again) == pytest.approx(found.metrics["final_eval_loss"], abs=1e-6)


def decompose_as_another_machine(rank):
    """Let the second worker's LAPACK choose the other sign for every pair of vectors, which is as right."""
    if rank == 1:
        svd = torch.linalg.svd
        torch.linalg.svd = lambda *args, **options: [
            -part if part.ndim == 2 else part for part in svd(*args, **options)
        ]


@pytest.mark.slow
def test_workers_that_decompose_differently_start_from_the_first_ones_factors(tmp_path):
    inputs = given_for("pissa", "qwen2")
    expected = execute("student", settings_for("pissa"), tmp_path / "one", inputs=inputs)
    place = Place(workers=2, device="cpu")
    job = Job("student", settings_for("pissa"), tmp_path / "s", inputs, place, prepare=decompose_as_another_machine)
    first, second = work(job)
    assert [first.trace, second.trace] == ["", ""]
    assert first.driven.column("loss") == pytest.approx(expected.column("loss"), abs=1e-4)
    assert first.driven.column("eval_loss") == pytest.approx(expected.column("eval_loss"), abs=1e-4)
