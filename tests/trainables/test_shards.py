from __future__ import annotations

import pytest
import torch

from trainables.training.memory import MicroBatch, asks_for_restart, find_word, leave_word
from trainables.training.replicas import buckets
from trainables.training.shards import Shards, save_shard
from trainables.training.workers import Workers


def test_shards_give_any_part_of_what_was_cut(tmp_path):
    whole = torch.arange(10.0)
    for rank, (start, end) in enumerate([(0, 4), (4, 7), (7, 10)]):
        save_shard(tmp_path, rank, {"weight:layer.a": whole[start:end]}, {"layer.a": start})
    shards = Shards(tmp_path)
    assert shards.names() == {"layer.a"}
    assert torch.equal(shards.whole("weight", "layer.a"), whole)
    for start in range(10):
        for end in range(start + 1, 11):
            assert torch.equal(shards.part("weight", "layer.a", start, end), whole[start:end])


def test_a_missing_shard_is_named_with_what_it_lacks(tmp_path):
    for rank in (0, 1, 2):
        save_shard(tmp_path, rank, {"exp_avg:a": torch.ones(5)}, {"a": 5 * rank})
    (tmp_path / "shard-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks a part of exp_avg:a: 10 of 15 elements are there"):
        Shards(tmp_path).whole("exp_avg", "a")
    with pytest.raises(ValueError, match="holds no shards"):
        Shards(tmp_path / "elsewhere")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("items", [0, 1, 5, 6, 16])
def test_shares_are_the_whole_in_order_and_none_exceeds_the_largest(items, size):
    shares = [Workers(rank, size).share(range(items)) for rank in range(size)]
    assert [item for share in shares for item in share] == list(range(items))
    assert max(map(len, shares)) == Workers(0, size).largest_share(items)


def test_buckets_hold_every_tensor_once_and_no_more_than_fits():
    tensors = [torch.zeros(size) for size in (3, 3, 9, 1, 1, 2, 5)]
    found = list(buckets(tensors, 6))
    assert [tensor.numel() for bucket in found for tensor in bucket] == [3, 3, 9, 1, 1, 2, 5]
    assert [sum(tensor.numel() for tensor in bucket) for bucket in found] == [6, 9, 4, 5]


def test_a_run_is_started_again_only_for_a_smaller_micro_batch_than_the_last_start_had(tmp_path):
    assert not asks_for_restart(tmp_path, None)
    leave_word(tmp_path, MicroBatch(8).half())
    first = find_word(tmp_path)
    assert first == MicroBatch(4, 1)
    assert asks_for_restart(tmp_path, None)
    assert not asks_for_restart(tmp_path, first)  # that start failed at micro-batch 1, or elsewhere
    leave_word(tmp_path, first.half())
    assert asks_for_restart(tmp_path, first)
    assert find_word(tmp_path) == MicroBatch(2, 2)
