from __future__ import annotations

import pytest

from orchestrator.statistics import independent_depth, paired_differences


def test_repeats_of_one_seed_are_averaged_and_never_counted():
    found = paired_differences({(1, 1, 1): [1.0, 3.0], (1, 1, 2): [5.0]}, {(1, 1, 1): [0.5], (1, 1, 2): [1.0]})
    assert found.differences == {(1, 1, 1): 1.5, (1, 1, 2): 4.0}
    assert (found.pairs, found.repeats) == (2, 1)
    assert found.note == "n counts the 2 values of split and teacher and student"


def test_with_several_teachers_the_teacher_is_the_replicate():
    arm = {(0, teacher, student): [10.0 * teacher + student] for teacher in (1, 2, 3) for student in (1, 2)}
    baseline = {key: [0.0] for key in arm}
    found = paired_differences(arm, baseline)
    assert found.differences == {(0, 1): 11.5, (0, 2): 21.5, (0, 3): 31.5}
    assert found.pairs == 6
    assert "n counts the 3 values of split and teacher; 6 pairs" in found.note


def test_several_splits_with_one_teacher_each_are_replicates_too():
    keys = [(split, 1, student) for split in (0, 1) for student in (1, 2)]
    assert independent_depth(keys) == 2
    assert independent_depth([(0, 1, student) for student in (1, 2)]) == 3
    assert independent_depth([(1,), (2,)]) == 1


def test_a_baseline_that_reads_no_teacher_pairs_by_what_is_shared():
    arm = {(0, teacher, student): [float(teacher)] for teacher in (1, 3) for student in (1, 2)}
    baseline = {(0, None, student): [0.5] for student in (1, 2)}
    found = paired_differences(arm, baseline)
    assert found.differences == {(0, 1): 1.5, (0, 2): 1.5}
    assert found.repeats == 0


def test_what_one_arm_lacks_is_left_out_and_named():
    found = paired_differences({(1,): [1.0], (2,): [2.0], (4,): []}, {(1,): [0.0], (3,): [1.0]}, names=["seed"])
    assert found.differences == {(1,): 1.0}
    assert found.unpaired == ((2,), (3,))


def test_a_stated_depth_wins_over_the_rule():
    keys = {(split, seed): [1.0] for split in (0, 1) for seed in (1, 2)}
    zero = {key: [0.0] for key in keys}
    assert len(paired_differences(keys, zero, names=("fold", "seed")).differences) == 2
    assert len(paired_differences(keys, zero, depth=2, names=("fold", "seed")).differences) == 4


def test_arms_that_share_nothing_have_no_pairs():
    found = paired_differences({(1,): [1.0]}, {(2,): [1.0]})
    assert found.differences == {}
    assert found.pairs == 0


@pytest.mark.parametrize("teacher_effect", [0.0, 3.0])
def test_a_teachers_luck_counts_once(teacher_effect):
    """Two teachers, ten students each: whatever the teachers do to the arm, n is two."""
    arm = {(0, t, s): [teacher_effect * t + 0.01 * s] for t in (1, 2) for s in range(10)}
    found = paired_differences(arm, {key: [0.0] for key in arm})
    assert len(found.differences) == 2
