from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file

import trainables
from search_spaces.target_study import TARGETS
from tests.trainables.driver import execute, prepare
from tests.trainables.tiny_models import FAMILIES, base_model, dataset, examples, inputs
from trainables.base import InputError
from trainables.student import StudentConfig, add_adapter
from trainables.training.batches import collate
from trainables.training.evaluation import evaluate_loss
from trainables.training.examples import load_examples
from trainables.training.forward import summed_loss
from trainables.training.models import autocast, load_model, precast_frozen

SETTINGS = {"steps": 4, "batch_size": 4, "eval_every": 2, "precision": "fp32", "rank": 4, "learning_rate": 1e-2}
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_reloads_through_peft_and_gives_the_loss_that_was_measured(tmp_path, family):
    settings = {**SETTINGS, "use_rslora": True, "lora_alpha": 6.0}
    driven = execute("student", settings, tmp_path / "s", inputs=inputs(family))
    model = PeftModel.from_pretrained(load_model(base_model(family)), tmp_path / "s/adapter")
    validation = load_examples(dataset(), "validation")
    found = evaluate_loss(model.get_base_model(), validation, batch_size=32, precision="fp32", device="cpu", pad_id=0)
    assert found.loss == driven.metrics["final_eval_loss"] < driven.metrics["initial_eval_loss"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", TARGETS)
def test_a_reloaded_adapter_gives_identical_logits(tmp_path, family, targets):
    from trainables.student import save_adapter

    config = StudentConfig(**SETTINGS, use_rslora=True, target_modules=TARGETS[targets])
    model = add_adapter(load_model(base_model(family)), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(model, tmp_path / "adapter")
    again = PeftModel.from_pretrained(load_model(base_model(family)), tmp_path / "adapter")
    ids = torch.tensor([examples(1)[0].input_ids])
    assert torch.equal(model.eval()(ids).logits, again(ids).logits)
    assert not torch.equal(model(ids).logits, load_model(base_model(family))(ids).logits)


def test_the_adapters_folder_holds_what_peft_needs_and_names_no_path_of_this_machine(tmp_path):
    execute("student", SETTINGS, tmp_path / "s", inputs=inputs("llama"))
    assert {path.name for path in (tmp_path / "s/adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((tmp_path / "s/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert config["target_modules"] == sorted(config["target_modules"])


def test_the_trainable_parameters_are_logged_as_peft_prints_them(tmp_path):
    driven = execute("student", {**SETTINGS, "precision": "bf16"}, tmp_path / "s", inputs=inputs("llama"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        add_adapter(load_model(base_model("llama")), StudentConfig(**SETTINGS)).print_trainable_parameters()
    assert printed.getvalue().strip() in driven.lines
    share = driven.metrics["trainable_parameters"] / driven.metrics["total_parameters"]
    assert driven.metrics["trainable_share"] == share


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_weights_cast_beforehand_change_no_bit_of_loss_or_gradient(family, dropout):
    config = StudentConfig(**{**SETTINGS, "precision": "bf16", "lora_dropout": dropout})
    found = []
    for is_precast in (False, True):
        model = add_adapter(load_model(base_model(family)), config).train()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.01)
        if is_precast:
            precast_frozen(model, "bf16")
        torch.manual_seed(0)
        with autocast("bf16", CPU):
            loss = summed_loss(model.get_base_model(), collate(examples(4), 0))
        loss.backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
        found.append((loss.detach(), gradients))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(gradient, found[1][1][name]) for name, gradient in found[0][1].items())
    assert any(gradient.abs().max() > 0 for gradient in found[0][1].values())


def test_what_is_cast_beforehand_spares_embeddings_norms_and_the_adapter():
    model = add_adapter(load_model(base_model("llama")), StudentConfig(**SETTINGS))
    precast_frozen(model, "bf16")
    kinds = {name: value.dtype for name, value in model.named_parameters()}
    halves = {name for name, kind in kinds.items() if kind == torch.bfloat16}
    assert halves == {name for name in kinds if "base_layer" in name or "lm_head" in name}


FRESH = """
    import sys
    from pathlib import Path
    from tests.trainables.driver import execute
    base, data, folder, seed = sys.argv[1:]
    settings = {settings} | {{"seed": int(seed)}}
    execute("student", settings, Path(folder), inputs={{"base_model": Path(base), "dataset": Path(data)}})
"""


def test_students_after_one_another_in_a_process_equal_students_in_processes_of_their_own(tmp_path):
    settings = {**SETTINGS, "lora_dropout": 0.1}
    for seed in (1, 2):
        execute("student", {**settings, "seed": seed}, tmp_path / f"warm-{seed}", inputs=inputs("llama"))
    program = textwrap.dedent(FRESH.format(settings=settings))
    arguments = [base_model("llama"), dataset(), tmp_path / "fresh-2", 2]
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, check=True)
    warm, fresh = (load_file(tmp_path / f"{name}-2/adapter/adapter_model.safetensors") for name in ("warm", "fresh"))
    first = load_file(tmp_path / "warm-1/adapter/adapter_model.safetensors")
    assert all(torch.equal(warm[name], fresh[name]) for name in warm)
    assert not any(torch.equal(warm[name], first[name]) for name in warm)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ["q_prj"]},
            r"target_modules='q_prj' matches no linear layer.*'q_proj'.*Linear layers: .*up_proj",
        ),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "'embed_tokens' matches no linear layer"),
        ({"target_modules": "nothing.*"}, "matches no linear layer"),
        ({"target_modules": "*"}, "no regular expression"),
        ({"target_modules": []}, "target_modules is empty"),
        (
            {"rank": 33},
            r"student rank 33 is above the size of model.layers.0.self_attn.k_proj \(32x64\); use at most 32",
        ),
        ({"rank": 65, "target_modules": ["q_proj"]}, "use at most 64"),
    ],
)
def test_targets_and_ranks_that_do_not_fit_the_base_are_found_before_training(tmp_path, settings, message):
    with pytest.raises(InputError, match=message) as error:
        prepare("student", {**SETTINGS, **settings}, inputs("llama"), tmp_path)
    assert "\n" not in str(error.value)


def test_the_largest_rank_that_fits_trains(tmp_path):
    settings = {**SETTINGS, "steps": 1, "rank": 64, "target_modules": "model.*(q|o)_proj"}
    execute("student", settings, tmp_path / "s", inputs=inputs("llama"))


def test_nothing_is_checked_against_a_base_that_is_not_there_yet(tmp_path):
    prepare("student", {**SETTINGS, "rank": 4096}, {}, tmp_path)


def test_settings_with_the_same_meaning_are_the_same_run():
    assert StudentConfig(rank=8).identity() == StudentConfig(rank=8, lora_alpha=8).identity()
    assert StudentConfig(rank=8).identity() != StudentConfig(rank=8, lora_alpha=16).identity()


def test_a_student_reads_the_export_only_if_its_init_does():
    student = trainables.find("student")
    assert student.needed_roles(StudentConfig(init="random")) == ("base_model", "dataset")
    assert student.needed_roles(StudentConfig(init="svd")) == ("base_model", "dataset", "svd_export")


def test_an_unknown_init_is_named_with_those_there_are():
    with pytest.raises(ValidationError, match=r"no init named 'svdd'. Did you mean 'svd'\? Known: .*random"):
        StudentConfig(init="svdd")


def test_pinning_resolves_the_precision(tmp_path):
    from trainables.training.precision import auto_precision

    pinned = prepare("student", {**SETTINGS, "precision": "auto"}, {}, tmp_path)
    assert pinned.precision == auto_precision()[0]


def test_a_warm_worker_reads_the_dataset_once(tmp_path):
    driven = execute("student", SETTINGS, tmp_path / "s", inputs=inputs("llama"))
    assert [key for key in driven.context.cache if str(dataset()) in key]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_a_student_of_no_steps_is_its_start_saved_and_tested(tmp_path, schedule):
    """Warm-up, batches and schedule say nothing then, and are no mistake."""
    settings = {**SETTINGS, "steps": 0, "warmup_steps": 5, "schedule": schedule}
    driven = execute("student", settings, tmp_path / "s", inputs=inputs("qwen2"))
    assert [progress.step for progress in driven.progress] == [0]
    assert driven.metrics["steps"] == driven.metrics["tokens"] == 0
    assert driven.metrics["initial_eval_loss"] == driven.metrics["final_eval_loss"] == driven.metrics["best_eval_loss"]
    config = StudentConfig(**settings)
    started = add_adapter(load_model(base_model("qwen2")), config).state_dict()
    saved = load_file(tmp_path / "s/adapter/adapter_model.safetensors")
    assert saved
    assert all(torch.equal(value, started[name.replace(".weight", ".default.weight")]) for name, value in saved.items())
    assert not list((tmp_path / "s.checkpoints").glob("step-*"))


def test_a_source_counts_for_the_students_that_use_it():
    """Another init's file is no change of this student's source, so a new one makes `plan` warn of nothing."""
    student = trainables.find("student")
    random, svd, again = (student.source_digest(StudentConfig(init=name)) for name in ("random", "svd", "svd"))
    assert random != svd == again
    assert student.plugins(StudentConfig(init="pissa")) == ("inits/pissa.py",)
