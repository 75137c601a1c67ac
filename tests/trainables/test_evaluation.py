from __future__ import annotations

import math

import pytest
import torch

from tests.trainables.tiny_models import base_model, examples
from trainables.training.evaluation import evaluate_loss, evaluation_batches
from trainables.training.models import load_model

SETTINGS = {"precision": "fp32", "device": "cpu", "pad_id": 0}


def test_loss_and_accuracy_pool_tokens_instead_of_averaging_items():
    model, chosen = load_model(base_model("llama")), examples(12)
    losses, correct, tokens = 0.0, 0, 0
    for item in chosen:  # transformers, one item at a time
        ids = torch.tensor([item.input_ids])
        labels = torch.tensor([[-100] * item.prompt_length + item.input_ids[item.prompt_length :]])
        output = model(ids, labels=labels)
        losses += output.loss.item() * item.completion_tokens
        guesses = output.logits[0, item.prompt_length - 1 : -1].argmax(-1)
        correct += int((guesses == ids[0, item.prompt_length :]).sum())
        tokens += item.completion_tokens
    found = evaluate_loss(model, chosen, batch_size=5, **SETTINGS)
    assert found.loss == pytest.approx(losses / tokens, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(losses / tokens), rel=1e-6)
    assert (found.token_accuracy, found.tokens) == (correct / tokens, tokens)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_batch_size_changes_nothing_but_rounding(batch_size):
    model, chosen = load_model(base_model("qwen2")), examples(10)
    reference = evaluate_loss(model, chosen, batch_size=10, **SETTINGS)
    found = evaluate_loss(model, chosen, batch_size=batch_size, **SETTINGS)
    assert found.loss == pytest.approx(reference.loss, rel=1e-6)
    assert found.tokens == reference.tokens


def test_batches_keep_to_both_limits_and_lose_nothing():
    chosen = examples(30)
    batches = list(evaluation_batches(chosen, 8, max_targets=20))
    assert sorted(map(id, chosen)) == sorted(id(item) for batch in batches for item in batch)
    assert all(len(batch) <= 8 for batch in batches)
    assert all(sum(item.completion_tokens for item in batch) <= 20 for batch in batches)
    assert [len(batch) for batch in evaluation_batches(chosen, 8, max_targets=1)] == [1] * 30


def test_the_model_is_left_in_the_mode_it_was_in():
    model = load_model(base_model("gpt2"))
    for mode in (True, False):
        model.train(mode)
        evaluate_loss(model, examples(2), batch_size=2, **SETTINGS)
        assert model.training is mode


def test_nothing_to_predict_is_an_error():
    with pytest.raises(ValueError, match="no completion tokens"):
        evaluate_loss(load_model(base_model("gpt2")), [], batch_size=2, **SETTINGS)
