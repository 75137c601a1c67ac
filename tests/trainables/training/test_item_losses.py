"""Each item's loss against transformers' own, one item at a time; their sums against the pooled evaluation."""

from __future__ import annotations

import pytest
import torch

from tests.trainables.tiny_models import FAMILIES, base_model, examples
from trainables.training.evaluation import evaluate_loss
from trainables.training.item_losses import item_losses, pooled
from trainables.training.models import load_model

SETTINGS = {"precision": "fp32", "device": "cpu", "pad_id": 0}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_items_loss_is_transformers_own_in_the_order_of_the_items(family):
    model, chosen = load_model(base_model(family)).eval(), examples(11)
    assert len({len(item.input_ids) for item in chosen}) > 2, "items of one length would not show a wrong order"
    found = item_losses(model, chosen, batch_size=4, **SETTINGS)
    for item, of_item in zip(chosen, found, strict=True):
        ids = torch.tensor([item.input_ids])
        labels = torch.tensor([[-100] * item.prompt_length + item.input_ids[item.prompt_length :]])
        with torch.no_grad():
            output = model(ids, labels=labels)
        guesses = output.logits[0, item.prompt_length - 1 : -1].argmax(-1)
        assert of_item.loss == pytest.approx(float(output.loss), rel=1e-5)
        assert of_item.tokens == item.completion_tokens
        assert of_item.exact == int((guesses == ids[0, item.prompt_length :]).sum())


def test_the_items_pool_to_the_loss_that_is_evaluated_at_once():
    model, chosen = load_model(base_model("qwen2")).eval(), examples(9)
    whole = evaluate_loss(model, chosen, batch_size=4, **SETTINGS)
    found = pooled(item_losses(model, chosen, batch_size=4, **SETTINGS))
    assert found.loss == pytest.approx(whole.loss, rel=1e-12)
    assert (found.token_accuracy, found.tokens) == (whole.token_accuracy, whole.tokens)


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ValueError, match="no completion tokens"):
        pooled([])
