"""The schedule alone: small cases by hand, and what must hold for any plan, by simulation."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.rooms import Demand, Room, Strategy, place
from cluster.schedule import Schedule, Task, remaining_paths
from tests.cluster.bound import lower_bound_s

FOUR = {"node": {"GPU": 4.0, "CPU": 64.0}}


def gpus(name: str, count: float, cost_s: float = 1.0, *needs: str) -> Task:
    return Task(name, needs, Demand({"GPU": count}), cost_s)


def gang(name: str, workers: int, each: float, cost_s: float = 1.0, *needs: str, strategy: Strategy = "PACK") -> Task:
    return Task(name, needs, Demand({"GPU": each}, workers, strategy), cost_s)


@dataclass
class Simulation:
    """Executes a schedule on a clock of its own; `seconds` are the real durations, where they differ from the costs."""

    tasks: list[Task]
    nodes: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: FOUR)
    seconds: Mapping[str, float] = field(default_factory=dict)
    failing: frozenset[str] = frozenset()
    now: float = 0.0

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.tasks, self.nodes, clock=lambda: self.now)
        self.begun: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.lost: list[str] = []
        self.ending: list[tuple[float, str]] = []

    def start_all(self) -> list[str]:
        names = []
        while (task := self.schedule.next()) is not None:
            names.append(task.id)
            self.begun[task.id] = self.now
            heapq.heappush(self.ending, (self.now + self.seconds.get(task.id, task.cost_s), task.id))
            self.check()
        return names

    def end_one(self) -> str:
        self.now, name = heapq.heappop(self.ending)
        self.ended[name] = self.now
        self.lost += self.schedule.ended(name, done=name not in self.failing)
        return name

    def run(self) -> float:
        self.start_all()
        while self.ending:
            self.end_one()
            self.start_all()
        return self.now

    def check(self) -> None:
        """Nothing is ever given twice, no GPU beyond what it is, and every gang lies as it asked to."""
        taken = [one for running in self.schedule.running.values() for one in running.taken]
        for node, total in self.nodes.items():
            here = [one for one in taken if one.node == node]
            for name, amount in total.items():
                if name != "GPU":
                    assert sum(one.amounts.get(name, 0.0) for one in here) <= amount + 1e-6
            for number in range(int(total.get("GPU", 0))):
                assert sum(one.gpus.get(number, 0.0) for one in here) <= 1 + 1e-6
        for running in self.schedule.running.values():
            demand = running.task.demand
            assert [one.node for one in running.taken] == list(running.nodes)
            assert len(running.nodes) == demand.workers
            assert all(sum(one.gpus.values()) == demand.bundle.get("GPU", 0.0) for one in running.taken)
            assert demand.strategy != "STRICT_PACK" or len(set(running.nodes)) == 1
            assert demand.strategy != "STRICT_SPREAD" or len(set(running.nodes)) == demand.workers


def test_the_longest_remaining_path_goes_first() -> None:
    tasks = [gpus("alone", 4, 5), gpus("head", 4, 1), gpus("tail", 4, 9, "head"), gpus("other", 4, 6)]
    assert remaining_paths(tasks) == {"alone": 5, "head": 10, "tail": 9, "other": 6}
    simulation = Simulation(tasks)
    simulation.run()
    assert list(simulation.begun) == ["head", "tail", "other", "alone"]


def test_tasks_may_be_added_and_weigh_on_those_that_wait() -> None:
    simulation = Simulation([gpus("first", 4, 5), gpus("second", 4, 3), gpus("third", 4, 4)])
    assert simulation.start_all() == ["first"]
    simulation.schedule.add([gpus("behind", 4, 2, "first", "second"), gpus("alone", 4, 4.5)])
    while simulation.ending:
        simulation.end_one()
        simulation.start_all()
    assert list(simulation.begun) == ["first", "second", "alone", "third", "behind"]


def test_a_task_that_others_will_be_planned_behind_goes_first() -> None:
    waits = Task("tuning", (), Demand({"GPU": 4}), 1.0, behind_s=9.0)
    simulation = Simulation([gpus("long", 4, 8), waits])
    simulation.run()
    assert list(simulation.begun) == ["tuning", "long"]


def test_what_is_added_after_all_it_needs_has_ended_is_ready_at_once() -> None:
    simulation = Simulation([gpus("first", 4)])
    simulation.run()
    simulation.schedule.add([gpus("next", 4, 1, "first")])
    assert simulation.start_all() == ["next"]


def test_what_does_not_fit_now_is_not_offered_but_what_fits_beside_it_is() -> None:
    simulation = Simulation([gpus("a", 3, 9), gpus("b", 2, 8), gpus("c", 1, 2)])
    assert simulation.start_all() == ["a", "c"]


def test_a_waiting_gang_is_not_starved_by_small_tasks() -> None:
    small = [gpus(f"small{index}", 1, 1) for index in range(100)]
    first = [gpus(f"first{index}", 1, 100 + index) for index in range(4)]
    simulation = Simulation([*first, gpus("gang", 4, 50), *small])
    simulation.run()
    assert simulation.begun["gang"] == 103
    assert all(simulation.begun[task.id] < 103 for task in small[:3]), "the drained GPUs are used until then"


def test_a_small_task_that_would_outlast_the_wait_is_held_back() -> None:
    tasks = [gpus("running", 2, 10), gpus("gang", 4, 9), gpus("long", 1, 8), gpus("short", 1, 5)]
    simulation = Simulation(tasks)
    assert simulation.start_all() == ["running", "long", "short"], "both end before the gang can start, at 10"
    tasks = [gpus("running", 2, 4), gpus("gang", 4, 3), gpus("head", 1, 1), gpus("long", 1, 2.5, "head")]
    simulation = Simulation([*tasks, gpus("longer", 1, 2.9)], seconds={"running": 40})
    assert simulation.start_all() == ["running", "head", "longer"]
    simulation.end_one()
    assert simulation.start_all() == ["long"]
    while simulation.ending[0][1] != "running":
        simulation.end_one()
    assert simulation.schedule.next() is None


def test_an_overrun_lets_nothing_more_in_ahead_of_the_gang() -> None:
    small = [gpus(f"small{index}", 1, 1) for index in range(50)]
    simulation = Simulation([gpus("slow", 1, 60), gpus("gang", 4, 55), *small], seconds={"slow": 200})
    simulation.run()
    assert simulation.begun["gang"] == 200
    tight = [gpus("slow", 1, 2), gpus("gang", 4, 1.9), *(gpus(f"small{index}", 1, 1.5) for index in range(9))]
    simulation = Simulation(tight, seconds={"slow": 20})
    simulation.run()
    assert simulation.begun["gang"] == 20
    assert sum(simulation.begun[f"small{index}"] < 20 for index in range(9)) == 3


def test_what_a_waiting_task_will_leave_free_is_used_however_long() -> None:
    tasks = [gpus("running", 3, 10), gpus("pair", 2, 9), gpus("long", 1, 8.5), gpus("longer", 1, 8.4)]
    simulation = Simulation(tasks)
    simulation.run()
    assert simulation.begun == {"running": 0, "long": 0, "longer": 8.5, "pair": 10}


def test_dependants_of_what_failed_are_given_up_in_dependency_order() -> None:
    tasks = [gpus("a", 1), gpus("b", 1, 1, "a"), gpus("c", 1, 1, "b"), gpus("d", 1), gpus("e", 1, 1, "c", "d")]
    simulation = Simulation(tasks, failing=frozenset({"a"}))
    simulation.run()
    assert simulation.lost == ["b", "c", "e"]
    assert set(simulation.ended) == {"a", "d"}
    assert not simulation.schedule.waiting


def test_a_task_whose_worker_was_lost_is_offered_again() -> None:
    schedule = Schedule([gpus("a", 4, 9), gpus("b", 4, 1)], FOUR)
    first = schedule.next()
    assert first is not None
    assert schedule.next() is None
    schedule.again("a")
    assert schedule.next() is first


def test_a_task_that_stopped_frees_its_place_and_holds_its_dependants() -> None:
    schedule = Schedule([gpus("a", 4, 9), gpus("b", 4, 1), gpus("c", 1, 1, "a")], FOUR)
    schedule.next()
    schedule.left("a")
    second = schedule.next()
    assert second is not None
    assert second.id == "b"
    schedule.ended("b")
    assert schedule.next() is None
    assert schedule.waiting == {"c"}


def test_small_tasks_share_a_node_so_that_a_large_one_finds_another_whole() -> None:
    nodes = {"n1": {"GPU": 4.0}, "n2": {"GPU": 4.0}}
    simulation = Simulation([gpus("a", 1, 9), gpus("b", 1, 8), gpus("c", 1, 7), gpus("big", 4, 1)], nodes)
    assert simulation.start_all() == ["a", "b", "c", "big"]


def test_a_task_that_landed_on_another_node_is_counted_there() -> None:
    schedule = Schedule([gpus("a", 1, 9), gpus("b", 4, 1), gpus("c", 4, 1)], {"n1": {"GPU": 4.0}, "n2": {"GPU": 4.0}})
    schedule.next()
    (node,) = schedule.running["a"].nodes
    other = "n2" if node == "n1" else "n1"
    schedule.moved("a", [other])
    schedule.next()
    assert schedule.running["b"].nodes == (node,)
    assert schedule.next() is None
    schedule.ended("a")
    assert schedule.next() is not None
    assert schedule.running["c"].nodes == (other,)


def test_two_runs_of_six_tenths_of_a_gpu_do_not_share_one_and_three_thirds_do() -> None:
    tenths = [gpus(f"s{index}", 0.6) for index in range(5)]
    assert len(Simulation(tenths, {"node": {"GPU": 3.0}}).start_all()) == 3
    thirds = [gpus(f"t{index}", 1 / 3) for index in range(5)]
    assert len(Simulation(thirds, {"node": {"GPU": 1.0}}).start_all()) == 3
    mixed = [gpus("a", 0.5, 9), gpus("b", 0.5, 8), gpus("c", 2, 7)]
    assert Simulation(mixed, {"node": {"GPU": 3.0}}).start_all() == ["a", "b", "c"], "the halves lie on one GPU"


def test_a_gang_is_spread_over_nodes_unless_it_must_not_be() -> None:
    nodes = {"n1": {"GPU": 2.0}, "n2": {"GPU": 2.0}}
    packed = Simulation([gang("a", 4, 1)], nodes)
    assert packed.start_all() == ["a"]
    assert sorted(packed.schedule.running["a"].nodes) == ["n1", "n1", "n2", "n2"]
    assert Simulation([gang("a", 4, 1, strategy="STRICT_PACK")], nodes).start_all() == []
    apart = Simulation([gang("a", 2, 1, strategy="STRICT_SPREAD"), gang("b", 3, 1, strategy="STRICT_SPREAD")], nodes)
    assert apart.start_all() == ["a"]
    assert sorted(apart.schedule.running["a"].nodes) == ["n1", "n2"]
    assert [task.id for task in apart.schedule.stranded()] == ["b"]
    assert Simulation([gang("a", 2, 2)], {"n1": {"GPU": 3.0}, "n2": {"GPU": 1.0}}).start_all() == [], "none straddles"


def test_a_gang_that_waits_for_two_nodes_is_not_starved_on_either() -> None:
    nodes = {"n1": {"GPU": 2.0}, "n2": {"GPU": 2.0}}
    small = [gpus(f"small{index}", 1, 1) for index in range(60)]
    first = [gpus(f"first{index}", 2, 90 + index) for index in range(2)]
    simulation = Simulation([*first, gang("gang", 4, 1, 50), *small], nodes)
    simulation.run()
    assert simulation.begun["gang"] == 91
    assert all(simulation.begun[task.id] < 91 for task in small[:2]), "the node that is drained first is used till then"


def test_nodes_that_come_are_used_and_what_waits_for_those_that_went_is_named() -> None:
    schedule = Schedule([gpus("a", 2, 9), gpus("b", 2, 8), gpus("c", 4, 1)], {"n1": {"GPU": 2.0}})
    assert schedule.next() is not None
    assert schedule.next() is None
    assert [task.id for task in schedule.stranded()] == ["c"]
    schedule.resize({"n1": {"GPU": 2.0}, "n2": {"GPU": 4.0}})
    second = schedule.next()
    assert second is not None
    assert (second.id, schedule.running["b"].nodes) == ("b", ("n2",))
    schedule.resize({"n2": {"GPU": 4.0}})
    assert schedule.next() is None
    schedule.again("a")
    assert [schedule.next(), schedule.next()] == [schedule.tasks["a"], None]
    schedule.ended("a")
    schedule.ended("b")
    third = schedule.next()
    assert third is not None
    schedule.ended("c")
    assert schedule.free == {"n2": Room.of({"GPU": 4.0})}


def test_asking_again_while_nothing_changes_costs_nothing() -> None:
    schedule = Schedule([gpus("a", 4, 9), *(gpus(f"b{index}", 4, 1) for index in range(10_000))], FOUR)
    schedule.next()
    schedule.next()
    schedule.ready.clear()  # would be a KeyError or a different answer if it looked
    assert schedule.next() is None


STRATEGIES: list[Strategy] = ["PACK", "STRICT_PACK", "SPREAD"]
DEMANDS = [(1, 0.0), (1, 0.25), (1, 0.6), (1, 1.0), (1, 2.0), (1, 4.0), (2, 0.5), (2, 1.0), (2, 2.0), (4, 1.0)]


@st.composite
def plans(draw: st.DrawFn) -> list[Task]:
    """Draw up to 25 tasks in dependency order, any of which needs up to three earlier ones."""
    tasks: list[Task] = []
    for index in range(draw(st.integers(1, 25))):
        needs = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        workers, amount = draw(st.sampled_from(DEMANDS))
        strategy = draw(st.sampled_from(STRATEGIES)) if workers > 1 else "PACK"
        cost_s = draw(st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.0]))
        tasks.append(gang(f"t{index}", workers, amount, cost_s, *(f"t{need}" for need in needs), strategy=strategy))
    return tasks


NODES = st.sampled_from(
    [FOUR, {"a": {"GPU": 4.0}, "b": {"GPU": 4.0}}, {"a": {"GPU": 4.0}, "b": {"GPU": 2.0}, "c": {"GPU": 1.0}}]
)
FACTORS = st.lists(st.sampled_from([0.25, 1.0, 4.0]), min_size=25, max_size=25)


@settings(max_examples=150, deadline=None)
@given(plans(), NODES, FACTORS, st.sets(st.integers(0, 24), max_size=3))
def test_any_plan_ends_with_every_task_once_after_its_needs_or_given_up(
    tasks: list[Task], nodes: Mapping[str, Mapping[str, float]], factors: list[float], failing: set[int]
) -> None:
    seconds = {task.id: task.cost_s * factor for task, factor in zip(tasks, factors, strict=False)}
    simulation = Simulation(tasks, nodes, seconds, frozenset(f"t{index}" for index in failing))
    simulation.run()
    assert set(simulation.ended) | set(simulation.lost) == {task.id for task in tasks}
    assert not set(simulation.ended) & set(simulation.lost)
    done = {name: end for name, end in simulation.ended.items() if name not in simulation.failing}
    for task in tasks:
        if task.id in simulation.begun:
            assert all(done[need] <= simulation.begun[task.id] for need in task.needs)
        else:
            assert any(need not in done for need in task.needs)
    for node, total in nodes.items():
        assert simulation.schedule.free[node].gpus == pytest.approx([1.0] * int(total["GPU"]))


@settings(max_examples=150, deadline=None)
@given(plans(), NODES, FACTORS)
def test_nothing_idles_that_a_ready_task_could_use_without_delaying_a_larger_one(
    tasks: list[Task], nodes: Mapping[str, Mapping[str, float]], factors: list[float]
) -> None:
    seconds = {task.id: task.cost_s * factor for task, factor in zip(tasks, factors, strict=False)}
    simulation = Simulation(tasks, nodes, seconds)
    simulation.start_all()
    while simulation.ending:
        schedule = simulation.schedule
        ready = [name for heap in schedule.ready.values() for _, _, name in heap]
        ready.sort(key=lambda name: (-schedule.paths[name], schedule.order[name]))
        usable = [name for name in ready if place(schedule.tasks[name].demand, schedule.free) is not None]
        if usable:
            assert usable[0] != ready[0], "only behind one that does not fit may anything be held back"
            reservation = schedule._reserve(schedule.tasks[ready[0]])
            assert reservation is not None
            for name in usable:
                task = schedule.tasks[name]
                elsewhere = {node: free for node, free in schedule.free.items() if node not in reservation.spare}
                assert place(task.demand, elsewhere) is None
                assert schedule.beside(task.demand, reservation) is None
                assert simulation.now + task.cost_s > reservation.at_s
        simulation.end_one()
        simulation.start_all()


@settings(max_examples=150, deadline=None)
@given(plans(), NODES)
def test_where_costs_are_exact_a_reservation_is_kept(
    tasks: list[Task], nodes: Mapping[str, Mapping[str, float]]
) -> None:
    simulation = Simulation([Task(task.id, (), task.demand, task.cost_s) for task in tasks], nodes)
    promised: dict[str, float] = {}
    simulation.start_all()
    while simulation.ending:
        schedule = simulation.schedule
        waiting = min((heap[0] for heap in schedule.ready.values() if heap), default=None)
        if waiting is not None:
            reservation = schedule._reserve(schedule.tasks[waiting[2]])
            assert reservation is not None
            promised.setdefault(waiting[2], reservation.at_s)
        simulation.end_one()
        simulation.start_all()
    for name, at_s in promised.items():
        assert simulation.begun[name] <= at_s + 1e-6


@settings(max_examples=100, deadline=None)
@given(plans())
def test_the_makespan_lies_between_the_bound_and_the_sum_of_all_costs(tasks: list[Task]) -> None:
    makespan = Simulation(tasks).run()
    assert makespan >= max(bound for _, bound in lower_bound_s(tasks, FOUR)) - 1e-6
    assert makespan <= sum(task.cost_s for task in tasks) + 1e-6
