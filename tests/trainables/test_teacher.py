from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.trainables.driver import execute
from tests.trainables.tiny_models import FAMILIES, base_model, inputs
from trainables.base import Place
from trainables.teacher import TeacherConfig
from trainables.training.evaluation import evaluate_loss
from trainables.training.examples import load_examples
from trainables.training.models import load_model

SETTINGS = {"steps": 4, "batch_size": 4, "eval_every": 2, "precision": "fp32", "learning_rate": 3e-3}


def changed(family: str, folder) -> set[str]:
    before, after = load_model(base_model(family)).state_dict(), load_model(folder).state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_saved_is_fp32_and_gives_the_loss_that_was_measured(tmp_path, family, precision):
    driven = execute("teacher", {**SETTINGS, "precision": precision}, tmp_path / "t", inputs=inputs(family))
    assert {tensor.dtype for tensor in load_file(tmp_path / "t/model.safetensors").values()} == {torch.float32}
    validation = load_examples(inputs(family)["dataset"], "validation")
    model = load_model(tmp_path / "t")
    found = evaluate_loss(model, validation, batch_size=32, precision=precision, device="cpu", pad_id=0)
    assert found.loss == driven.metrics["final_eval_loss"] < driven.metrics["initial_eval_loss"]


def test_bf16_training_keeps_changes_that_bf16_could_not_hold(tmp_path):
    settings = {**SETTINGS, "precision": "bf16", "learning_rate": 1e-6}
    execute("teacher", settings, tmp_path / "t", inputs=inputs("llama"))
    before, after = load_model(base_model("llama")), load_model(tmp_path / "t")
    one, other = (model.model.layers[0].mlp.up_proj.weight for model in (before, after))
    assert (one != other).float().mean() > 0.99
    assert (one.bfloat16() == other.bfloat16()).float().mean() > 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_a_linears_only_teacher_changes_every_linear_weight_and_nothing_else(tmp_path, family):
    execute("teacher", {**SETTINGS, "parameters": "linears"}, tmp_path / "t", inputs=inputs(family))
    expected = {
        "gpt2": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
        "llama": {f"self_attn.{part}_proj" for part in "qkvo"}
        | {f"mlp.{part}_proj" for part in ("gate", "up", "down")},
    }
    expected["qwen2"] = expected["llama"]
    block = "transformer.h" if family == "gpt2" else "model.layers"
    assert changed(family, tmp_path / "t") == {
        f"{block}.{layer}.{name}.weight" for layer in range(2) for name in expected[family]
    }


def test_a_whole_teacher_changes_embeddings_norms_and_biases_too(tmp_path):
    execute("teacher", SETTINGS, tmp_path / "t", inputs=inputs("qwen2"))
    assert changed("qwen2", tmp_path / "t") == set(load_model(base_model("qwen2")).state_dict())


def test_tied_embeddings_stay_tied_and_are_counted_once(tmp_path):
    driven = execute("teacher", SETTINGS, tmp_path / "t", inputs=inputs("llama"))
    model = load_model(tmp_path / "t")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert driven.metrics["total_parameters"] == driven.metrics["trainable_parameters"] == model.num_parameters()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_reloads_with_the_bases_tokenizer_and_names_no_path_of_this_machine(tmp_path, family):
    from transformers import AutoTokenizer

    execute("teacher", SETTINGS, tmp_path / "t", inputs=inputs(family))
    text = "What is 12 + 45?"
    ids = [AutoTokenizer.from_pretrained(folder)(text).input_ids for folder in (base_model(family), tmp_path / "t")]
    assert ids[0] == ids[1]
    assert str(base_model(family)) not in (tmp_path / "t/config.json").read_text()
    summary = json.loads((tmp_path / "t/training.json").read_text())
    assert summary["config"]["steps"] == 4
    assert summary["metrics"]["steps"] == 4


def test_a_teacher_cut_off_ends_bit_for_bit_the_same(tmp_path):
    whole = execute("teacher", SETTINGS, tmp_path / "whole", inputs=inputs("llama"))

    def die(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(
            "teacher",
            SETTINGS,
            tmp_path / "cut",
            inputs=inputs("llama"),
            on_progress=die,
            place=Place(checkpoint_every=1),
        )
    newest = tmp_path / "cut.checkpoints" / "step-2"
    rest = execute("teacher", SETTINGS, tmp_path / "rest", inputs=inputs("llama"), resume_from=newest)
    assert rest.metrics == whole.metrics
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "rest"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_warm_up_must_leave_steps_to_train():
    with pytest.raises(ValueError, match="leaves none of the 4 steps"):
        TeacherConfig(steps=4, warmup_steps=4)


def test_a_place_without_its_gpu_is_a_mistake_in_one_line(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="torch sees none") as error:
        execute("teacher", SETTINGS, tmp_path / "t", inputs=inputs("llama"), place=Place(device="cuda"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_goes_on_from_another_teachers_artefact(tmp_path, family):
    """From its last weights, with a new optimiser and schedule; the tokenizer comes along, the summary does not."""
    first = execute("teacher", SETTINGS, tmp_path / "first", inputs=inputs(family))
    again = {**inputs(family), "base_model": tmp_path / "first"}
    second = execute("teacher", {**SETTINGS, "seed": 2}, tmp_path / "second", inputs=again)
    assert second.metrics["initial_eval_loss"] == pytest.approx(first.metrics["final_eval_loss"], abs=1e-6)
    assert json.loads((tmp_path / "second" / "training.json").read_text())["config"]["seed"] == 2
    before, base, after = (
        load_model(folder).state_dict() for folder in (tmp_path / "first", base_model(family), tmp_path / "second")
    )
    assert before.keys() == after.keys()
    moved = [sum(float((after[name] - start[name]).square().sum()) for name in after) for start in (before, base)]
    assert 0 < moved[0] < moved[1]
    tokenizer = "tokenizer.json"
    assert (tmp_path / "second" / tokenizer).read_bytes() == (base_model(family) / tokenizer).read_bytes()


def test_a_teacher_gone_on_with_is_compared_with_the_base_that_both_came_from(tmp_path):
    from tests.trainables.test_evaluate import FP32
    from tests.trainables.test_evaluate import dataset as sums

    execute("teacher", SETTINGS, tmp_path / "first", inputs=inputs("gpt2"))
    again = {**inputs("gpt2"), "base_model": tmp_path / "first"}
    execute("teacher", {**SETTINGS, "steps": 1}, tmp_path / "second", inputs=again)
    compared = {"base_model": base_model("gpt2"), "dataset": sums("gpt2"), "teacher": tmp_path / "first"}
    settings = {**FP32, "items": 2, "max_new_tokens": 1, "geometry": True}
    found = execute("evaluate", settings, tmp_path / "e", inputs={**compared, "subject": tmp_path / "second"}).metrics
    assert 0.05 < found["distance_to_teacher"] < 1
    assert found["subspace_overlap"] > 0.5
