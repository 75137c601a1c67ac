"""Floating-point operations against torch's own counter, and steps of equal compute against the count."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.trainables.tiny_models import base_model
from trainables.base_models.shape import QWEN_MATH_7B, SMOLLM2_135M, read_shape
from trainables.student import StudentConfig, add_adapter
from trainables.teacher import train_linears_only
from trainables.training.compute import compute_matched_steps, flops_per_token
from trainables.training.models import load_model

TOKENS = 24


def counted(family, trains):
    """Return the operations of one pass there and back per token: all products but those of attention scores."""
    model = load_model(base_model(family))
    if trains == "linears":
        train_linears_only(model)
    elif trains != "all":
        model = add_adapter(model, StudentConfig(rank=trains))
    ids = torch.arange(TOKENS)[None] % 50 + 10
    with FlopCounterMode(display=False) as counter:
        model.train()(input_ids=ids, labels=ids).loss.backward()
    kinds = counter.get_flop_counts()["Global"].items()
    left_out = ("attention", "bmm")
    return sum(count for kind, count in kinds if not any(word in str(kind) for word in left_out)) / TOKENS


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("trains", ["all", "linears", 4])
def test_the_formula_counts_what_torch_counts(family, trains):
    """To what the first layers' inputs save, whose gradient nobody wants (a few of 14 matrices), and no more."""
    formula, found = flops_per_token(read_shape(base_model(family)), trains), counted(family, trains)
    assert found <= formula * (1 + 1e-6)
    if trains == "all":
        assert found == pytest.approx(formula, rel=1e-6)
    assert found >= 0.9 * formula


def test_a_lora_costs_two_thirds_of_full_fine_tuning_and_not_one_third():
    for shape in (SMOLLM2_135M, QWEN_MATH_7B):
        assert 2 / 3 < flops_per_token(shape, 16) / flops_per_token(shape, "all") < 0.72


def test_matched_steps_cost_the_teachers_compute_on_top_and_less_than_a_step_more():
    for rank, teacher_trains, batch_ratio in ((4, "all", 1.0), (64, "linears", 2.0), (16, "all", 0.5)):
        options = {"teacher_steps": 60, "teacher_trains": teacher_trains, "batch_ratio": batch_ratio}
        steps = compute_matched_steps(16, rank, SMOLLM2_135M, **options)
        each = flops_per_token(SMOLLM2_135M, rank)
        spent = steps * each
        wanted = 16 * each + 60 * batch_ratio * flops_per_token(SMOLLM2_135M, teacher_trains)
        assert wanted <= spent * (1 + 1e-6) < wanted + each * (1 + 1e-6)


def test_a_teacher_that_costs_the_same_adds_its_own_steps_and_none_adds_none():
    assert compute_matched_steps(16, 4, SMOLLM2_135M, teacher_steps=0) == 16
    ratio = flops_per_token(SMOLLM2_135M, 4) / flops_per_token(SMOLLM2_135M, "all")
    assert compute_matched_steps(16, 4, SMOLLM2_135M, teacher_steps=60, batch_ratio=ratio) == 76


def test_counting_needs_no_torch():
    code = "import sys, trainables.training.compute; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
