"""(IA)^3 as a teacher: against PEFT's own merge, and as what the rest of a study takes for a teacher."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from tests.trainables.driver import drive, execute, prepare
from tests.trainables.tiny_models import FAMILIES, base_model, dataset, inputs
from trainables.base import InputError, Stopped
from trainables.ia3 import IA3Config
from trainables.training.evaluation import evaluate_loss
from trainables.training.examples import load_examples
from trainables.training.models import block_linears, load_model

SETTINGS = {"steps": 4, "batch_size": 4, "eval_every": 2, "precision": "fp32", "learning_rate": 5e-2}
SCALED = {
    "gpt2": ("attn.c_attn", "mlp.c_proj"),
    "llama": ("k_proj", "v_proj", "down_proj"),
    "qwen2": ("q_proj", "v_proj", "down_proj"),
}


def held_out(model):
    examples = load_examples(dataset(), "validation")
    return evaluate_loss(model, examples, batch_size=32, precision="fp32", device="cpu", pad_id=0).loss


def changes(family, folder):
    """Return W and dW of every linear layer in (out, in) orientation."""
    before, after = (block_linears(load_model(path)) for path in (base_model(family), folder))
    pairs = {
        name: (layer.weight.detach(), after[name].weight.detach() - layer.weight.detach())
        for name, layer in before.items()
    }
    return {name: tuple(part.T for part in pair) if family == "gpt2" else pair for name, pair in pairs.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_has_the_loss_that_training_measured(tmp_path, family):
    driven = execute("ia3", SETTINGS, tmp_path / "t", inputs=inputs(family))
    assert driven.metrics["initial_eval_loss"] == pytest.approx(held_out(load_model(base_model(family))), abs=1e-6)
    assert abs(driven.metrics["final_eval_loss"] - driven.metrics["initial_eval_loss"]) > 1e-4
    assert held_out(load_model(tmp_path / "t")) == pytest.approx(driven.metrics["final_eval_loss"], abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_change_scales_rows_or_in_the_mlp_columns_and_has_the_rank_of_the_weight(tmp_path, family):
    """dW = diag(l - 1) W, or W diag(l - 1): one factor per row or column, whatever the layout stores."""
    execute("ia3", SETTINGS, tmp_path / "t", inputs=inputs(family))
    scaled = set()
    for name, (weight, change) in changes(family, tmp_path / "t").items():
        if not change.any():
            continue
        scaled.add(next(kind for kind in SCALED[family] if name.endswith(kind)))
        is_column = name.endswith(SCALED[family][-1])
        dim = 0 if is_column else 1
        factor = (change * weight).sum(dim, keepdim=True) / weight.square().sum(dim, keepdim=True)  # least squares
        torch.testing.assert_close(change, factor * weight, rtol=0, atol=1e-6)
        moved = int((factor.abs() > 1e-4).sum())
        assert torch.linalg.matrix_rank(change.double(), rtol=1e-4) >= 0.9 * min(moved, *weight.shape)
    assert scaled == set(SCALED[family])


def test_factors_trained_by_hand_with_peft_take_the_same_course(tmp_path):
    """PEFT as its documentation says, torch's own AdamW, the loop's batches."""
    import peft

    from trainables.training.batches import collate
    from trainables.training.data_order import step_items
    from trainables.training.forward import summed_loss

    driven = execute("ia3", {**SETTINGS, "schedule": "constant"}, tmp_path / "t", inputs=inputs("llama"))
    model = peft.get_peft_model(load_model(base_model("llama")), peft.IA3Config(task_type="CAUSAL_LM"))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-2, weight_decay=0.0)
    train, losses = load_examples(dataset(), "train"), []
    for step in range(4):
        items = [train[index] for index in step_items(1, step, 4, len(train))]
        batch = collate(items, 0)
        loss = summed_loss(model.train().get_base_model(), batch) / sum(item.completion_tokens for item in items)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert driven.column("loss") == pytest.approx(losses, abs=1e-5)


def test_an_export_and_a_student_take_it_as_a_teacher(tmp_path):
    execute(
        "ia3",
        {**SETTINGS, "target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        tmp_path / "t",
        inputs=inputs("llama"),
    )
    found = drive(
        "svd_export",
        {"rank": 64},
        tmp_path / "e",
        inputs={"base_model": base_model("llama"), "teacher": tmp_path / "t"},
    )
    assert 0 < found["energy_4"] < 0.9 < found["energy_64"]
    assert (tmp_path / "t" / "tokenizer.json").is_file()
    student = {"init": "svd", "rank": 8, "steps": 0, "precision": "fp32"}
    execute("student", student, tmp_path / "s", inputs=inputs("llama", svd_export=tmp_path / "e"))


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(tmp_path):
    whole = execute("ia3", SETTINGS, tmp_path / "whole", inputs=inputs("qwen2"))
    with pytest.raises(Stopped):
        execute("ia3", SETTINGS, tmp_path / "cut", inputs=inputs("qwen2"), stop_after=2)
    (newest,) = (tmp_path / "cut.checkpoints").glob("step-*")
    rest = execute("ia3", SETTINGS, tmp_path / "rest", inputs=inputs("qwen2"), resume_from=newest)
    assert rest.metrics == whole.metrics
    before, after = (load_model(tmp_path / name).state_dict() for name in ("whole", "rest"))
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_best_model_is_saved_if_it_is_not_the_last(tmp_path):
    driven = execute("ia3", {**SETTINGS, "steps": 14, "learning_rate": 1.0}, tmp_path / "t", inputs=inputs("gpt2"))
    assert 0 < driven.metrics["best_step"] < 14, "the rate is meant to overshoot"
    assert held_out(load_model(tmp_path / "t" / "best")) == pytest.approx(driven.metrics["best_eval_loss"], abs=1e-4)


def test_settings_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="decay would draw the factors to 0"):
        IA3Config(weight_decay=0.1)
    with pytest.raises(InputError, match="Did you mean 'k_proj'"):
        prepare("ia3", {"target_modules": ["kproj"]}, inputs("llama"), tmp_path)
