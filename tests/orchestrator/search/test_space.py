from __future__ import annotations

import pytest

from orchestrator.space import Choice, Float, Int, Objective, Prune, Search
from trainables.base import InputError

CONDITIONAL = {
    "student.init": Choice("random", "svd"),
    "student.lora_dropout": Float(0.0, 0.2, when={"student.init": ("random",)}),
}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Float(1.0, 1.0), "smaller number first"),
        (lambda: Float(0.0, 1.0, log=True), "begins above 0"),
        (lambda: Int(8, 2), "smaller number first"),
        (lambda: Choice(), "give values, each once"),
        (lambda: Choice("a", "a"), "give values, each once"),
        (lambda: Search({}, 3), "nothing to vary"),
        (lambda: Search(CONDITIONAL, 0), "at least one"),
        (lambda: Search(dict(reversed(CONDITIONAL.items())), 3), "which is no axis before it"),
        (lambda: Search(CONDITIONAL, 3, (Objective(), Objective("size")), prune=Prune()), "cannot stop runs early"),
        (lambda: Search(CONDITIONAL, 3, sampler="nsga2"), "two objectives"),
        (lambda: Search(CONDITIONAL, 3, usual={"student.rank": 3}), "which is no axis"),
        (lambda: Prune(reduction=1), "at least 1 and 2"),
    ],
)
def test_a_space_that_cannot_be_meant_is_refused_in_words(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_numbers_are_as_one_would_type_them_and_within_the_bounds():
    rate = Float(1e-5, 1e-1, log=True)
    assert rate.settle(0.00123456) == 0.00123
    assert rate.settle(0.0999999) == 0.1
    assert rate.at(0.5) == 1e-3
    assert Int(2, 16, log=True).at(0.5) == 6
    assert Choice("a", "b", "c").at(0.99) == "c"


def test_an_axis_is_there_where_its_condition_holds_and_nowhere_else():
    search = Search(CONDITIONAL, 20)
    for values in search.stand_ins(20):
        assert ("student.lora_dropout" in values) == (values["student.init"] == "random")
        assert search.holds(values)
    assert not search.holds({"student.init": "svd", "student.lora_dropout": 0.1})
    assert not search.holds({"student.init": "random"})
    assert not search.holds({"student.init": "pissa"})


def test_what_stands_in_for_a_point_does_not_change_when_more_are_asked_for():
    assert Search(CONDITIONAL, 30).stand_ins(30)[:20] == Search(CONDITIONAL, 20).stand_ins(20)
