"""The whole table of words, and what each sentence has to hold."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from orchestrator.design import Look, needed_replicates, share_alpha
from orchestrator.report.summary import Number
from orchestrator.report.verdicts import Evidence, design_note, sentence, verdict

COMPLETE = Evidence(
    arm="svd",
    baseline="random",
    group={"rank": 16},
    metric="test_loss",
    higher_is_better=False,
    estimate=Number(mean=-0.21, n=6, low=-0.23, high=-0.18),
    p=0.03125,
    p_adjusted=0.03125,
    planned=6,
    pending=0,
    family=1,
    alpha=0.05,
    scope="for this teacher and split",
)


def expected(can, pending, small, favour, within):
    """The questions in their order: the first that is answered gives the word."""
    if not can:
        return "under-powered by design"
    if pending:
        return "interim"
    if small:
        return "supported" if favour else "contradicted"
    return "equivalent" if within else "inconclusive"


TABLE = [(*row, expected(*row)) for row in itertools.product((False, True), repeat=5)]


@pytest.mark.parametrize(("can", "pending", "small", "favour", "within", "word"), TABLE)
def test_every_row_of_the_table(can, pending, small, favour, within, word):
    n = 6 if can else 5
    evidence = replace(
        COMPLETE,
        planned=n,
        pending=2 if pending else 0,
        estimate=Number(mean=-0.2 if favour else 0.2, n=n - 2 if pending else n),
        p_adjusted=0.03 if small else 0.4,
        margin=0.5,
        p_equivalent=0.03 if within else 0.4,
    )
    assert verdict(evidence) == word
    assert word in sentence(evidence).lower()


def test_the_table_has_every_word_once_at_least():
    assert {row[-1] for row in TABLE} == {
        "supported",
        "contradicted",
        "equivalent",
        "inconclusive",
        "under-powered by design",
        "interim",
    }


@pytest.mark.parametrize(("mean", "higher", "word"), [(-1, False, "supported"), (-1, True, "contradicted")])
def test_the_metrics_direction_decides_what_is_in_favour(mean, higher, word):
    assert verdict(replace(COMPLETE, estimate=Number(mean=mean, n=6), higher_is_better=higher)) == word
    opposite = replace(COMPLETE, estimate=Number(mean=-mean, n=6), higher_is_better=higher)
    assert verdict(opposite) != word


def test_no_pair_and_no_p_is_inconclusive():
    assert verdict(replace(COMPLETE, estimate=None, p=None, p_adjusted=None)) == "inconclusive"
    assert "no pair of svd and random has finished" in sentence(replace(COMPLETE, estimate=None))


@pytest.mark.parametrize("m", range(1, 7))
@pytest.mark.parametrize("method", ["westfall-young", "holm"])
def test_supported_is_impossible_below_the_needed_replicates_and_possible_at_them(m, method):
    need = needed_replicates(m, method=method)
    best = replace(COMPLETE, family=m, method=method, p=0.0, p_adjusted=0.0)
    for n in range(need):
        found = verdict(replace(best, planned=n, estimate=Number(mean=-1, n=n)))
        assert found == "under-powered by design", "even with p = 0"
    assert verdict(replace(best, planned=need, estimate=Number(mean=-1, n=need))) == "supported"


def test_a_look_decides_at_its_own_level_and_not_at_alpha():
    looks = share_alpha([8, 10, 12], method="none")
    early = replace(COMPLETE, looks=looks, planned=12, pending=4, estimate=Number(mean=-1, n=8))
    level = looks[0].level
    assert verdict(replace(early, p_adjusted=level)) == "supported"
    assert verdict(replace(early, p_adjusted=level * 1.01)) == "interim"
    assert verdict(replace(early, p_adjusted=0.0, estimate=Number(mean=-1, n=9))) == "interim", "9 is no look"
    last = replace(early, pending=0, estimate=Number(mean=-1, n=12))
    assert verdict(replace(last, p_adjusted=looks[-1].level)) == "supported"
    assert verdict(replace(last, p_adjusted=looks[-1].level * 1.01)) == "inconclusive"


def test_an_interim_look_never_says_equivalent():
    looks = (Look(6, 0.01), Look(12, 0.04))
    early = replace(COMPLETE, looks=looks, planned=12, pending=6, p_adjusted=0.5, margin=1.0, p_equivalent=0.0)
    assert verdict(early) == "interim"


def test_the_sentence_holds_difference_interval_n_p_and_scope():
    text = sentence(replace(COMPLETE, adjusted_by="westfall-young", p=0.03125, p_adjusted=0.0625))
    assert text == (
        "Rank 16, inconclusive for this teacher and split: svd − random in test loss −0.21 [−0.23, −0.18] "
        "(6 pairs, p 0.031, adjusted 0.062 by Westfall-Young)."
    )


def test_the_sentence_says_when_it_is_decided():
    waiting = replace(COMPLETE, planned=8, pending=2, p=None, p_adjusted=None)
    assert sentence(waiting).endswith("2 of 8 pairs are still to come; nothing is tested until then.")
    looks = share_alpha([6, 8, 10], method="none")
    between = replace(waiting, looks=looks, planned=10, pending=3, estimate=Number(mean=-1, n=7))
    assert sentence(between).endswith("3 of 10 pairs are still to come; the next look is after 8.")
    at = replace(between, pending=2, estimate=Number(mean=-1, n=8), p_adjusted=0.5)
    assert "this look asks for" in sentence(at)
    assert "0.05 is shared by 3 looks" in sentence(replace(at, p_adjusted=0.0))


def test_a_real_difference_within_the_margin_is_called_too_small_to_matter():
    small = replace(COMPLETE, margin=0.5, p_equivalent=0.03)
    assert verdict(small) == "supported"
    assert "smaller than the margin of 0.5 (adjusted p 0.030): real, and too small to matter." in sentence(small)
    assert "Within the margin of 0.5 (adjusted p 0.030)." in sentence(replace(small, p_adjusted=0.9))
    assert "Not shown to be within" in sentence(replace(small, p_adjusted=0.9, p_equivalent=0.9))


def test_pairs_that_ended_badly_are_said_where_the_rest_cannot_decide():
    left = replace(COMPLETE, planned=6, estimate=Number(mean=-1, n=5), p_adjusted=0.0625)
    assert sentence(left).endswith("Of 6 pairs 1 is missing; the rest cannot reach 0.05.")
    plenty = replace(left, planned=8, estimate=Number(mean=-1, n=7))
    assert "missing" not in sentence(plenty)
    shared = replace(COMPLETE, family=5, method="westfall-young", adjusted_by="holm", estimate=Number(mean=-1, n=5))
    assert verdict(replace(shared, p_adjusted=0.3)) == "inconclusive", "the design could; what is left cannot"
    assert "cannot reach" in sentence(shared)


def test_the_design_note_names_what_would_suffice():
    assert design_note(6, 5, 0.05, "westfall-young") == ""
    assert "8 pairs could" in design_note(6, 5, 0.05)
    assert "6 pairs could" in design_note(5, 5, 0.05, "westfall-young")
