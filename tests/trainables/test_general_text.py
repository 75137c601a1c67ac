"""The loss on text that the fine-tuning did not see, against transformers' own on the same windows."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainables.driver import execute
from tests.trainables.test_evaluate import FP32, dataset, teacher
from tests.trainables.tiny_models import base_model
from trainables import find, general_text
from trainables.base import InputError
from trainables.evaluate import EvaluateConfig


def test_the_text_is_the_story_alone():
    text = general_text.text()
    assert text.startswith("Little though they seem to think of it")
    assert "Gutenberg" not in text
    assert len(text.split()) > 5000


def test_another_text_than_the_pinned_one_is_refused(tmp_path):
    (tmp_path / "story.txt").write_text("IN THE YEAR 2889.\nsomething else")
    with pytest.raises(InputError, match=r"the installed package has another text; install reasoning-gym"):
        general_text.verified(tmp_path / "story.txt")
    with pytest.raises(InputError, match="the installed package has none"):
        general_text.verified(None)


def test_windows_lie_side_by_side_and_are_all_full():
    tokenizer = AutoTokenizer.from_pretrained(base_model("gpt2"))
    tokens = tokenizer(general_text.text(), add_special_tokens=False, verbose=False)["input_ids"]
    found = general_text.windows(tokenizer, 300)
    assert [token for example in found for token in example.input_ids] == tokens[: 300 * (4096 // 300)]
    assert {(len(example.input_ids), example.prompt_length) for example in found} == {(300, 0)}
    with pytest.raises(InputError, match="forgetting_window=1000000 is more than the"):
        general_text.windows(tokenizer, 1_000_000)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_is_transformers_own_over_the_windows(tmp_path, family):
    inputs = {"base_model": base_model(family), "dataset": dataset(family), "subject": teacher(family)}
    settings = {**FP32, "items": 2, "max_new_tokens": 1, "forgetting_window": 512}
    metrics = execute("evaluate", settings, tmp_path, inputs=inputs).metrics
    model = AutoModelForCausalLM.from_pretrained(teacher(family))
    windows = general_text.windows(AutoTokenizer.from_pretrained(base_model(family)), 512)
    losses = []
    for example in windows:
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    assert metrics["forgetting_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert metrics["forgetting_perplexity"] == pytest.approx(math.exp(metrics["forgetting_loss"]), rel=1e-9)
    assert (metrics["forgetting_window"], metrics["forgetting_windows"]) == (512, 8)
    assert metrics["forgetting_loss"] != metrics["test_loss"]


def test_planning_refuses_windows_longer_than_the_model_and_tasks_made_of_the_text(tmp_path):
    check = find("evaluate").check
    with pytest.raises(InputError, match="forgetting_window=513 is above the 512 positions of the base model"):
        check(EvaluateConfig(forgetting_window=513), {"base_model": base_model("llama")})
    (tmp_path / "dataset.json").write_text('{"source": "letter_counting"}')
    with pytest.raises(InputError, match="letter_counting makes its items of the text that forgetting is measured on"):
        check(EvaluateConfig(forgetting_window=64), {"dataset": tmp_path})
    check(EvaluateConfig(forgetting_window=512), {"base_model": base_model("gpt2"), "dataset": dataset("gpt2")})
