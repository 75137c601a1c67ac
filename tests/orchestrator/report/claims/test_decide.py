"""The command that would decide: whether it is the exact one, and whether its number is what it says."""

from __future__ import annotations

import random
import shlex
import statistics as plain

from orchestrator.statistics import power_of_difference
from tests.orchestrator.report.made_up import students, summarised
from tests.orchestrator.report.test_claims_of_tables import better, pending_after, shared, tied


def axis(command: str) -> list[int]:
    words = shlex.split(command)
    (value,) = [word for word in words if word.startswith("student.seed=")]
    ends = [list(map(int, part.split(".."))) for part in value.partition("=")[2].split(",")]
    return [seed for first, *last in ends for seed in range(first, (last or [first])[0] + 1)]


def noisy(effect, seed=3):
    def loss(rank, init, seed_):
        luck = random.Random(f"{rank} {init} {seed_} {seed}").gauss(0, 0.1)
        return 1.5 + luck + (effect if init == "svd" else 0.0)

    return loss


def test_an_under_powered_design_is_extended_to_the_least_that_can_conclude(tmp_path):
    found = summarised(students((4,), shared(3), better), tmp_path, command="python -m orchestrator sweep my_study")
    (item,) = found.differences
    assert item.decide == "python -m orchestrator sweep my_study --axis student.seed=1,2,3,4,5,6"
    assert "none of alpha is spent" in item.decide_why


def test_the_command_keeps_what_says_which_study_this_is_and_replaces_its_axis(tmp_path):
    command = (
        "python -m orchestrator report --scale tiny 'my study.py' --json --axis student.rank=4 "
        "--axis student.seed=1,2,3 --set=student.steps=40 --store '/a b' --figure loss"
    )
    (item,) = summarised(students((4,), shared(3), better), tmp_path, command=command).differences
    assert item.decide == (
        "python -m orchestrator sweep 'my study.py' --scale tiny --axis student.rank=4 --set student.steps=40 "
        "--store '/a b' --axis student.seed=1,2,3,4,5,6"
    )


def test_what_is_still_to_come_is_gone_on_with_and_a_look_asks_for_its_own_number(tmp_path):
    going = summarised(students((4,), shared(8), pending_after(5)), tmp_path, command="python -m orchestrator sweep s")
    assert going.differences[0].decide == "python -m orchestrator sweep s"
    looking = summarised(
        students((4,), shared(8), tied), tmp_path, command="python -m orchestrator sweep s", looks=(8, 12)
    )
    assert axis(looking.differences[0].decide) == list(range(1, 13))


def test_an_inconclusive_comparison_is_decided_by_fresh_seeds_with_the_power_that_is_said(tmp_path):
    (item,) = summarised(students((4,), shared(8), noisy(-0.03)), tmp_path).differences
    assert item.verdict == "inconclusive"
    fresh = axis(item.decide)
    assert min(fresh) == 9, "seeds that were seen are spent"
    assert len(fresh) > 6
    d_z = plain.mean(item.pairs) / plain.stdev(item.pairs)
    assert power_of_difference(len(fresh), d_z) >= 0.8 > power_of_difference(len(fresh) - 1, d_z)
    assert "observed effect" in item.decide_why
    assert f"d_z {abs(d_z):.2f}" in item.decide_why


def test_a_declared_margin_takes_the_place_of_the_observed_effect(tmp_path):
    (item,) = summarised(students((4,), shared(8), noisy(-0.02)), tmp_path, margin=0.08).differences
    assert item.verdict == "inconclusive"
    assert "the margin of 0.08" in item.decide_why
    assert f"d_z {0.08 / plain.stdev(item.pairs):.2f}" in item.decide_why


def test_no_number_is_named_where_none_would_do(tmp_path):
    flat = [0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1, -0.1001]
    table = students((4,), shared(8), lambda rank, init, seed: 1.0 + (flat[seed - 1] if init == "svd" else 0.0))
    (item,) = summarised(table, tmp_path).differences
    assert item.decide == ""
    assert "more than 200 replicates" in item.decide_why


def test_one_number_serves_all_open_comparisons(tmp_path):
    found = summarised(students((4, 16), shared(8), noisy(-0.06)), tmp_path).differences
    open_ones = [item for item in found if item.verdict == "inconclusive"]
    assert len({item.decide for item in open_ones}) == 1


def test_lost_runs_are_tried_again_where_the_rest_cannot_decide(tmp_path):
    table = students((4,), shared(6), better)
    table.loc[table["run_id"] == "svd-4-3", ["status", "test_loss"]] = ["oom", None]
    (item,) = summarised(table, tmp_path, command="python -m orchestrator sweep s").differences
    assert item.decide == "python -m orchestrator sweep s"
    assert "1 of 6 pairs lost" in item.decide_why


def test_what_is_decided_needs_no_command(tmp_path):
    (item,) = summarised(students((4,), shared(6), better), tmp_path).differences
    assert (item.verdict, item.decide, item.decide_why) == ("supported", "", "")
