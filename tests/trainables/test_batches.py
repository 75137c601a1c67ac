from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.trainables.tiny_models import FAMILIES, base_model, examples
from trainables.training.batches import collate, completion_tokens, packed, padded, shared_prefix
from trainables.training.data_order import epoch_order, step_items
from trainables.training.examples import Example
from trainables.training.forward import can_pack, summed_loss, target_logits
from trainables.training.models import load_model

PREFIX = [11, 12, 13, 14, 15]


def alike(count: int) -> list[Example]:
    """Examples of unequal lengths that begin alike."""
    return [Example(PREFIX + item.input_ids, len(PREFIX) + item.prompt_length) for item in examples(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_padded_batches_give_the_logits_of_one_sequence_at_a_time(family):
    model, chosen = load_model(base_model(family)), alike(5)
    alone = [
        model(torch.tensor([item.input_ids])).logits[0, item.prompt_length - 1 : -1]  # transformers' own forward pass
        for item in chosen
    ]
    for batch in (padded(chosen, 0), packed(chosen, len(PREFIX)), packed(chosen, 0)):
        # fp32 sums in another order: a few units in the seventh digit of logits around 1.
        torch.testing.assert_close(target_logits(model, batch), torch.cat(alone), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_padded_batches_give_the_same_gradients(family):
    gradients = []
    for batch in (padded(alike(5), 0), packed(alike(5), len(PREFIX))):
        model = load_model(base_model(family))
        summed_loss(model, batch).backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1], atol=2e-5, rtol=1e-4)


def test_targets_are_the_tokens_at_and_after_the_prompts_length():
    chosen = [Example([5, 6, 7, 8], 2), Example([5, 6, 9], 2), Example([1, 2, 3], 0)]
    for batch in (padded(chosen, 0), packed(chosen, 0)):
        assert batch.targets.tolist() == [7, 8, 9, 2, 3]
    assert completion_tokens(chosen) == 5


def test_the_loss_is_that_of_transformers_with_the_prompt_masked():
    model, item = load_model(base_model("qwen2")), examples(1)[0]
    labels = torch.tensor([[-100] * item.prompt_length + item.input_ids[item.prompt_length :]])
    reference = model(torch.tensor([item.input_ids]), labels=labels).loss
    ours = summed_loss(model, padded([item], 0)) / item.completion_tokens
    torch.testing.assert_close(ours, reference)


def test_the_shared_prefix_leaves_every_sequence_the_token_that_predicts_its_first_target():
    assert shared_prefix(alike(6)) == len(PREFIX)
    assert shared_prefix([Example([1, 2, 3, 4], 3), Example([1, 2, 3, 5], 3)]) == 2
    assert shared_prefix([Example([1, 2, 3], 0), Example([1, 2, 4], 0)]) == 0
    assert shared_prefix([Example([1, 2, 3, 4], 2)] * 2) == 1


def test_a_batch_is_packed_only_where_that_saves_tokens():
    assert collate(alike(4), 0, packs=True).input_ids.shape[0] == 1
    assert collate(alike(4), 0).input_ids.shape[0] == 4
    same_length = [Example([index, *range(10, 20)], 5) for index in range(4)]
    assert collate(same_length, 0, packs=True).input_ids.shape[0] == 4
    too_long = [Example([*range(300), 300 + index], 299) for index in range(4)]
    assert collate([*too_long, Example([*range(10), *range(400)], 9)], 0, packs=True).input_ids.shape[0] == 5


def test_active_dropout_forbids_packing():
    model = load_model(base_model("llama"))
    assert can_pack(model.train(), torch.device("cpu"))
    model.config.attention_dropout = 0.1
    assert not can_pack(model, torch.device("cpu"))
    assert can_pack(model.eval(), torch.device("cpu"))


def test_every_epoch_is_another_permutation_fixed_by_the_seed():
    first, second = epoch_order(3, 0, 50), epoch_order(3, 1, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second != epoch_order(4, 1, 50)
    # The value itself is part of every run's identity: no library may change it.
    assert epoch_order(1, 0, 8) == (0, 6, 7, 1, 2, 5, 3, 4)


def test_steps_run_through_the_epochs_without_a_short_batch():
    stream = [item for step in range(6) for item in step_items(7, step, 4, 10)]
    assert stream[:10] == list(epoch_order(7, 0, 10))
    assert stream[10:20] == list(epoch_order(7, 1, 10))


def test_logits_are_capped_where_the_architecture_caps_them():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma2Config(vocab_size=200, num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.05, **sizes)
    model = Gemma2ForCausalLM(config).eval()
    batch = padded(examples(3), 0)
    logits = target_logits(model, batch)
    full = model(batch.input_ids, attention_mask=batch.attention_mask).logits.flatten(0, 1)[batch.sources]
    assert logits.abs().max() <= 0.05
    torch.testing.assert_close(cross_entropy(logits, batch.targets), cross_entropy(full, batch.targets))
