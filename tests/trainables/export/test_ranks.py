"""Rank criteria on spectra made by hand: where the answer can be counted out, or searched for exhaustively."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tests.trainables.export.spectra import layer
from trainables.base import InputError
from trainables.export.ranks import (
    ROUNDING,
    ByBudget,
    ByEnergy,
    ByError,
    ByRank,
    Criterion,
    kept,
    parameters,
    smallest_rank,
)

FOUR = [math.sqrt(value) for value in (60.0, 25.0, 10.0, 5.0)]
"""Energies .60, .85, .95 and 1 at ranks 1 to 4."""


def rank_of(criterion, *layers):
    assert criterion.unfinished(layers) == []
    return criterion.split(layers)


@pytest.mark.parametrize(
    ("energy", "rank"), [(0.5, 1), (0.6, 1), (0.6000001, 2), (0.85, 2), (0.8500001, 3), (0.95, 3), (0.9500001, 4)]
)
def test_energy_takes_the_smallest_rank_that_reaches_it_and_not_one_more(energy, rank):
    """A threshold met exactly is met; one missed by 1e-7 is missed."""
    assert rank_of(ByEnergy(energy=energy), layer(FOUR)) == {"a": rank}


def test_a_threshold_met_exactly_is_not_missed_by_the_rounding_of_the_bounds():
    """The exact route's bounds are off by some 1e-13; taking them literally costs every such layer one rank."""
    assert rank_of(ByEnergy(energy=0.85), layer(FOUR, slack=1e-13)) == {"a": 2}


def test_the_promise_is_kept_by_the_lower_bounds_not_by_the_estimates():
    """The estimate says .8501 at rank 2; what is certain is 1 % less, so rank 3 it is."""
    assert rank_of(ByEnergy(energy=0.8495), layer(FOUR, slack=0.005)) == {"a": 3}


def test_a_layer_that_did_not_change_gets_no_rank_by_energy():
    zero = layer([0.0] * 4, name="zero")
    assert rank_of(ByEnergy(energy=0.9), layer(FOUR), zero) == {"a": 3, "zero": 0}
    assert smallest_rank(zero, 0.9) == 0


@pytest.mark.parametrize(("error", "energy"), [(0.15, 0.9775), (0.05, 0.9975), (0.3872983346207417, 0.85)])
def test_an_error_is_the_energy_that_lies_beside_it(error, energy):
    draw = np.random.default_rng(0)
    layers = [layer(draw.exponential(size=40), name=str(index)) for index in range(5)]
    assert rank_of(ByError(error=error), *layers) == rank_of(ByEnergy(energy=energy), *layers)
    for found, rank in zip(layers, rank_of(ByError(error=error), *layers).values(), strict=True):
        lost = math.sqrt(np.square(found.sigma[rank:]).sum()) / found.delta_norm
        one_less = math.sqrt(np.square(found.sigma[rank - 1 :]).sum()) / found.delta_norm
        assert lost <= error < one_less


def test_both_meanings_are_said():
    assert "0.9775" in ByError(error=0.15).said
    assert "0.387" in ByEnergy(energy=0.85).said


def test_a_layer_asks_for_more_triplets_until_the_energy_is_certain_or_there_are_no_more():
    few, enough, whole = (layer(FOUR, known=known) for known in (1, 2, 4))
    assert ByEnergy(energy=0.85).unfinished([few]) == ["a"]
    assert ByEnergy(energy=0.85).unfinished([enough]) == []
    assert ByEnergy(energy=0.9999).unfinished([whole]) == []
    loose = layer(FOUR, slack=0.4)
    assert rank_of(ByEnergy(energy=0.9999), loose) == {"a": 4}, "complete and not certain: all there is"


def test_a_rank_is_capped_by_what_a_layer_has():
    small, large = layer([1.0, 1.0], name="small", shape=(2, 9)), layer([1.0] * 9, name="large")
    criterion = ByRank(rank=4)
    assert criterion.first([small.linear, large.linear]) == {"small": 2, "large": 4}
    assert rank_of(criterion, small, large) == {"small": 2, "large": 4}
    assert criterion.unfinished([layer([1.0] * 9, known=3)]) == ["a"]


def test_criteria_exclude_each_other_by_type():
    union = TypeAdapter(Criterion)
    for criterion in (ByRank(rank=3), ByEnergy(energy=0.9), ByError(error=0.1), ByBudget(parameters=100)):
        assert union.validate_python(criterion.model_dump()) == criterion
    with pytest.raises(ValidationError):
        union.validate_python({"rank": 3, "energy": 0.9})


@pytest.mark.parametrize("criterion", [{"rank": 0}, {"energy": 1}, {"energy": 0}, {"error": 1.5}, {"parameters": 0}])
def test_values_outside_the_range_are_refused(criterion):
    with pytest.raises(ValidationError):
        TypeAdapter(Criterion).validate_python(criterion)


# -- budget ---------------------------------------------------------------------------------------------

VALUES = st.lists(st.floats(0.01, 10), min_size=1, max_size=3)
MODELS = st.lists(st.tuples(VALUES, st.integers(0, 5)), min_size=1, max_size=4)


def model(parts):
    """Return layers of up to three singular values, of different sizes."""
    return [
        layer(sigma, name=str(index), shape=(len(sigma), len(sigma) + more))
        for index, (sigma, more) in enumerate(parts)
    ]


def best(layers, budget):
    """Return the most that any ranks within the budget keep, by trying all."""
    every = itertools.product(*(range(len(found.sigma) + 1) for found in layers))
    named = (dict(zip((found.linear.name for found in layers), ranks, strict=True)) for ranks in every)
    return max(kept(layers, ranks) for ranks in named if parameters(layers, ranks) <= budget)


def price(found):
    return found.linear.out_features + found.linear.in_features


@settings(max_examples=150, deadline=None)
@given(MODELS, st.floats(0, 1))
def test_a_budget_is_split_within_one_triplet_of_the_best_and_never_exceeded(parts, share):
    layers = model(parts)
    cheapest = min(map(price, layers))
    whole = sum(len(found.sigma) * price(found) for found in layers)
    budget = round(cheapest + share * (whole - cheapest))
    ranks = ByBudget(parameters=budget).split(layers)
    assert parameters(layers, ranks) <= budget
    if parameters(layers, ranks) == whole:
        return
    # The first triplet that did not fit bounds what is missing (Dantzig); the largest one left out is at least that.
    left_out = max(
        float(found.sigma[ranks[found.linear.name]]) ** 2
        for found in layers
        if ranks[found.linear.name] < len(found.sigma)
    )
    assert best(layers, budget) <= kept(layers, ranks) + left_out + 1e-9


@settings(max_examples=150, deadline=None)
@given(MODELS, st.integers(1, 3))
def test_a_budget_never_keeps_less_than_the_uniform_rank_of_the_same_size(parts, rank):
    layers = model(parts)
    uniform = {found.linear.name: found.linear.rank(rank) for found in layers}
    ranks = ByBudget(parameters=parameters(layers, uniform)).split(layers)
    assert kept(layers, ranks) >= kept(layers, uniform) * (1 - ROUNDING)


def test_greedy_alone_would_keep_less_than_the_uniform_rank():
    """Two cheap triplets first leave too little for the dear one: 8.7 instead of 10.5."""
    cheap = layer([math.sqrt(4.4), math.sqrt(4.3)], name="cheap", shape=(2, 2))
    dear = layer([math.sqrt(6.1), 0.1], name="dear", shape=(2, 4))
    assert ByBudget(parameters=10).split([cheap, dear]) == {"cheap": 1, "dear": 1}


def test_a_budget_goes_where_the_energy_is_and_layers_may_get_none():
    steep = layer([10.0, 0.1, 0.1, 0.1], name="steep")
    flat = layer([5.0, 5.0, 5.0, 5.0], name="flat")
    tiny = layer([0.01] * 4, name="tiny")
    assert ByBudget(parameters=40).split([steep, flat, tiny]) == {"steep": 1, "flat": 4, "tiny": 0}


def test_the_split_of_known_triplets_is_that_of_all_once_nothing_is_unfinished():
    """What a caller does: begin with `first`, double what is unfinished. The end must be as if all were known."""
    draw = np.random.default_rng(1)
    spectra = {str(index): draw.exponential(size=120) * draw.choice([0.2, 1, 5]) for index in range(6)}
    shapes = {name: (120, int(draw.integers(120, 300))) for name in spectra}
    whole = [layer(sigma, name=name, shape=shapes[name]) for name, sigma in spectra.items()]
    for budget in (300, 5_000, 40_000, 200_000):
        criterion = ByBudget(parameters=budget)
        known = dict(criterion.first([found.linear for found in whole]))
        for _ in range(10):
            layers = [layer(s, name=name, shape=shapes[name], known=known[name]) for name, s in spectra.items()]
            unfinished = criterion.unfinished(layers)
            if not unfinished:
                break
            known |= {name: min(120, 2 * known[name]) for name in unfinished}
        assert unfinished == []
        assert criterion.split(layers) == criterion.split(whole)


def test_a_layer_alone_says_nothing_about_a_budget_unless_it_is_all_there_is():
    criterion = ByBudget(parameters=80_000)
    linears = [layer([1.0] * 400, name=name).linear for name in "abcd"]
    assert criterion.first(linears) == dict.fromkeys("abcd", 50), "twice the 25 that the budget pays for in all four"
    assert criterion.unfinished([layer([1.0] * 400, known=50)]) == []
    assert criterion.first(linears[:1]) == {"a": 100}, "alone it is given all that the budget pays for"


def test_a_budget_below_one_triplet_is_refused_with_the_least_that_is_possible():
    linears = [layer([1.0] * 4, name="a").linear, layer([1.0] * 6, name="b").linear]
    with pytest.raises(InputError, match=r"7 parameters is below rank 1 of the smallest layer, a: 8 at least, and 20"):
        ByBudget(parameters=7).first(linears)
    assert ByBudget(parameters=8).split([layer([1.0] * 4, name="a")]) == {"a": 1}


@pytest.mark.parametrize("criterion", [ByRank(rank=3), ByEnergy(energy=0.9), ByError(error=0.1)])
def test_what_is_asked_for_first_never_exceeds_a_layer(criterion):
    small = layer([1.0, 1.0], shape=(2, 9))
    assert criterion.first([small.linear])["a"] <= 2
