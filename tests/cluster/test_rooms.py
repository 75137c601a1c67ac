"""The arithmetic of bundles on nodes, against trying out every way to lay them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.rooms import Demand, Room, can_place, place, take_all

SHARES = [0.0, 0.25, 0.4, 0.5, 0.6, 1.0]
Layout = Mapping[str, tuple[float, list[float]]]
"""CPUs and the free shares of the GPUs of each node."""

layouts = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.tuples(st.sampled_from([0.0, 1.0, 2.0, 5.0]), st.lists(st.sampled_from(SHARES), max_size=3)),
    min_size=1,
)
demands = st.builds(
    lambda cpus, gpus, workers, strategy: Demand({"CPU": cpus, "GPU": gpus}, workers, strategy),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.sampled_from([0.0, 0.25, 0.4, 0.6, 1.0, 2.0]),
    st.integers(1, 4),
    st.sampled_from(["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"]),
)


def rooms_of(layout: Layout) -> dict[str, Room]:
    return {name: Room({"CPU": cpus}, list(gpus)) for name, (cpus, gpus) in layout.items()}


def ways_to_take(gpus: tuple[float, ...], amount: float) -> list[tuple[float, ...]]:
    """Return what may be left of the GPUs of a node once one bundle has taken its part."""
    if amount == 0:
        return [gpus]
    ways = []
    for chosen in itertools.combinations(range(len(gpus)), max(1, int(amount))):
        share = min(amount, 1.0)
        if all(gpus[number] >= share - 1e-9 for number in chosen):
            ways.append(tuple(free - share if number in chosen else free for number, free in enumerate(gpus)))
    return ways


def can_be_laid(demand: Demand, layout: Layout) -> bool:
    """Try every node and every GPU for every bundle in turn."""
    cpus, gpus = demand.bundle["CPU"], demand.bundle["GPU"]

    def lay(left: int, state: dict[str, tuple[float, tuple[float, ...]]], used: frozenset[str]) -> bool:
        if not left:
            return True
        for name, (free_cpus, free_gpus) in state.items():
            if demand.strategy == "STRICT_PACK" and used and name not in used:
                continue
            if demand.strategy == "STRICT_SPREAD" and name in used:
                continue
            if free_cpus < cpus - 1e-9:
                continue
            for remaining in ways_to_take(free_gpus, gpus):
                if lay(left - 1, {**state, name: (free_cpus - cpus, remaining)}, used | {name}):
                    return True
        return False

    state = {name: (free, tuple(shares)) for name, (free, shares) in layout.items()}
    return lay(demand.workers, state, frozenset())


@settings(max_examples=600, deadline=None)
@given(demands, layouts)
def test_bundles_are_placed_where_and_only_where_some_layout_holds_them(demand: Demand, layout: Layout) -> None:
    rooms = rooms_of(layout)
    nodes = place(demand, rooms)
    counts = {name: room.holds(demand.bundle, demand.workers) for name, room in rooms.items()}
    assert (nodes is not None) == can_be_laid(demand, layout) == can_place(demand, counts)
    if nodes is None:
        return
    assert len(nodes) == demand.workers
    take_all(demand, nodes, rooms)
    assert all(share > -1e-6 for room in rooms.values() for share in room.gpus)
    assert all(room.amounts["CPU"] > -1e-6 for room in rooms.values())
    if demand.strategy == "STRICT_SPREAD":
        assert len(set(nodes)) == demand.workers
    if demand.strategy == "STRICT_PACK":
        assert len(set(nodes)) == 1
    if demand.strategy == "SPREAD":
        assert len(set(nodes)) == min(demand.workers, sum(count > 0 for count in counts.values()))
    if demand.strategy == "PACK" and max(counts.values()) >= demand.workers:
        assert len(set(nodes)) == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.25, 0.4, 0.6, 1.0, 2.0])), max_size=30))
def test_what_is_taken_and_given_back_leaves_the_room_as_it_was(moves: list[tuple[bool, float]]) -> None:
    room, held = Room.of({"CPU": 8, "GPU": 3}), []
    for takes, amount in moves:
        bundle = {"CPU": 1.0, "GPU": amount}
        if takes and room.holds(bundle):
            held.append(room.take("here", bundle))
        elif held:
            room.change(held.pop(0), +1)
        assert all(-1e-6 < share < 1 + 1e-6 for share in room.gpus)
    for taken in held:
        room.change(taken, +1)
    assert room.gpus == pytest.approx([1.0] * 3)
    assert room.amounts == pytest.approx({"CPU": 8.0})


def test_a_share_goes_to_the_fullest_gpu_that_has_it() -> None:
    room = Room({}, [1.0, 0.5, 0.3])
    assert room.take("here", {"GPU": 0.4}).gpus == {1: 0.4}
    assert room.take("here", {"GPU": 0.3}).gpus == {2: 0.3}
    assert room.take("here", {"GPU": 1.0}).gpus == {0: 1.0}


def test_what_is_waited_for_is_taken_from_gpus_that_are_in_use_now() -> None:
    now, later = Room({}, [1.0, 0.0, 0.0]), Room({}, [1.0, 1.0, 1.0])
    later.take("here", {"GPU": 2.0}, now)
    assert later.least(now).gpus == [1.0, 0.0, 0.0]


def test_a_gang_is_laid_on_as_few_nodes_as_possible_and_the_tightest_of_these() -> None:
    rooms = {"big": Room.of({"GPU": 8}), "small": Room.of({"GPU": 2}), "smaller": Room.of({"GPU": 1})}
    assert place(Demand({"GPU": 1.0}, 2), rooms) == ["small", "small"]
    assert place(Demand({"GPU": 1.0}, 9), rooms) == ["big"] * 8 + ["small"]
    assert place(Demand({"GPU": 1.0}, 4, "SPREAD"), rooms) == ["big", "small", "smaller", "big"]
    assert place(Demand({"GPU": 1.5}, 1), rooms) is None
