"""Which ready run goes next: dependencies, priorities and admission. Pure; knows neither Ray nor the store.

List scheduling with a reservation. Ready tasks are taken by the longest path that remains behind them. The first
that does not fit now gets a reservation: the nodes, and the time, at which running tasks will have freed enough for
it, by their estimated ends. What comes after it may start only where that does not push this time back ("EASY
backfill", Lifka 1995; Mu'alem & Feitelson 2001), so a large task can never be starved by small ones. A task that
overruns its estimate counts as ending now, which lets nothing more in ahead of the reservation.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.rooms import Demand, Resources, Room, Taken, can_place, place, take_all


@dataclass(frozen=True)
class Task:
    """What a schedule knows of a run: what it needs first, what it occupies, how long it may take.

    `behind_s` is the time, by the longest chain, of tasks that can only be added once this one has ended.
    """

    id: str
    needs: tuple[str, ...] = ()
    demand: Demand = field(default_factory=Demand)
    cost_s: float = 1.0
    behind_s: float = 0.0


@dataclass
class Running:
    """A task that has been started, the node of each of its workers, what they hold, and its estimated end."""

    task: Task
    nodes: tuple[str, ...]
    taken: tuple[Taken, ...]
    ends_s: float


@dataclass(frozen=True)
class Reservation:
    """When a waiting task can start, what will be free then, and what is left of that on the nodes it would use."""

    demand: Demand
    at_s: float
    free: Mapping[str, Room]
    spare: Mapping[str, Room]

    def allows(self, taken: Sequence[Taken]) -> bool:
        """Say whether the task can still start then if this is in use for longer."""
        rooms = {one.node: self.free[one.node].copy() for one in taken}
        for one in taken:
            rooms[one.node].change(one, -1)
        return place(self.demand, {**self.free, **rooms}) is not None


def remaining_paths(tasks: Sequence[Task]) -> dict[str, float]:
    """Return, for each task, the seconds of the longest chain that starts with it; `tasks` in dependency order."""
    behind: dict[str, float] = {}
    paths: dict[str, float] = {}
    for task in reversed(tasks):
        paths[task.id] = task.cost_s + max(behind.get(task.id, 0.0), task.behind_s)
        for need in task.needs:
            behind[need] = max(behind.get(need, 0.0), paths[task.id])
    return paths


class Schedule:
    """The tasks of one sweep. `next` takes the task to start now; `ended`, `left` and `again` say what became of it.

    Tasks come in dependency order and need only each other; `add` takes more of them at any time. `next` costs nothing
    while nothing has changed, and otherwise grows with the number of distinct shapes, nodes and running tasks; only
    behind a reservation does it look at all ready tasks.
    """

    def __init__(
        self, tasks: Sequence[Task], nodes: Mapping[str, Resources], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the tasks and what each node has in all."""
        self.nodes = {name: dict(resources) for name, resources in nodes.items()}
        self.free = {name: Room.of(resources) for name, resources in nodes.items()}
        self.clock = clock
        self.tasks: dict[str, Task] = {}
        self.paths: dict[str, float] = {}
        self.order: dict[str, int] = {}
        self.missing: dict[str, int] = {}
        self.dependants: dict[str, list[str]] = {}
        self.ready: dict[tuple[object, ...], list[tuple[float, int, str]]] = {}
        self.running: dict[str, Running] = {}
        self.waiting: set[str] = set()
        self.done: set[str] = set()
        self._is_settled = False
        self.add(tasks)

    def add(self, tasks: Sequence[Task]) -> None:
        """Take more tasks, in dependency order: what they need is known already, done or not, but not dropped."""
        for task in tasks:
            needs = set(task.needs) - self.done
            self.tasks[task.id], self.order[task.id] = task, len(self.order)
            self.missing[task.id], self.dependants[task.id] = len(needs), []
            for need in needs:
                self.dependants[need].append(task.id)
            self.waiting.add(task.id)
        self._weigh()
        for task in tasks:
            if not self.missing[task.id]:
                self._make_ready(task)

    def next(self) -> Task | None:
        """Take the task that should start now, or return None if none should until something changes."""
        if self._is_settled:
            return None
        found = self._choose()
        self._is_settled = found is None
        if found is not None:
            self._start(*found)
            return found[0]
        return None

    def ended(self, task_id: str, *, done: bool = True) -> list[str]:
        """Free what the task held. If it is done its dependants may follow, else return all that now never can."""
        self._release(task_id)
        if not done:
            return self._drop_dependants(task_id)
        self.done.add(task_id)
        for name in self.dependants[task_id]:
            self.missing[name] -= 1
            if not self.missing[name] and name in self.waiting:
                self._make_ready(self.tasks[name])
        return []

    def left(self, task_id: str) -> None:
        """Free what a stopped task held; it is not offered again, and what needs it goes on waiting."""
        self._release(task_id)

    def again(self, task_id: str) -> None:
        """Free what a started task held and let it wait for another start (its worker was lost)."""
        self._release(task_id)
        self.waiting.add(task_id)
        self._make_ready(self.tasks[task_id])

    def moved(self, task_id: str, nodes: Sequence[str]) -> None:
        """Correct the nodes of a running task's workers: the cluster, not the schedule, has the last word on them."""
        running = self.running.get(task_id)
        if running is None or sorted(running.nodes) == sorted(nodes):
            return
        self._give_back(running.taken)
        running.nodes, running.taken = tuple(nodes), take_all(running.task.demand, nodes, self.free)
        self._is_settled = False

    def resize(self, nodes: Mapping[str, Resources]) -> None:
        """Take what each node has now, where nodes have come or gone; what runs keeps what it holds."""
        if nodes == self.nodes:
            return
        self.nodes = {name: dict(resources) for name, resources in nodes.items()}
        self.free = {name: Room.of(resources) for name, resources in nodes.items()}
        for running in self.running.values():
            running.taken = take_all(running.task.demand, running.nodes, self.free)
        self._is_settled = False

    def stranded(self) -> list[Task]:
        """Return the ready tasks, one of each shape, that the nodes could not hold if nothing else ran."""
        rooms = {name: Room.of(resources) for name, resources in self.nodes.items()}
        tops = [self.tasks[heap[0][2]] for heap in self.ready.values() if heap]
        return [task for task in tops if place(task.demand, rooms) is None]

    # -- choosing -------------------------------------------------------------------------------------------

    def _choose(self) -> tuple[Task, list[str]] | None:
        held: Task | None = None
        reservation: Reservation | None = None
        for shape in sorted((shape for shape, heap in self.ready.items() if heap), key=lambda s: self.ready[s][0]):
            top = self.tasks[self.ready[shape][0][2]]
            nodes = place(top.demand, self.free)
            if held is None:
                if nodes is not None:
                    heapq.heappop(self.ready[shape])
                    return top, nodes
                held = top
                continue
            if nodes is not None:
                reservation = reservation or self._reserve(held)
                found = self._backfill(shape, nodes, reservation)
                if found is not None:
                    return found
        return None

    def _reserve(self, task: Task) -> Reservation | None:
        """Return when and where the task can start soonest, by the estimated ends of what runs; None if nowhere."""
        demand, now_s = task.demand, self.clock()
        rooms = {name: room.copy() for name, room in self.free.items()}
        counts = {name: room.holds(demand.bundle, demand.workers) for name, room in rooms.items()}
        at_s = now_s
        for running in sorted(self.running.values(), key=lambda running: running.ends_s):
            if can_place(demand, counts):
                break
            at_s = max(running.ends_s, now_s)
            for taken in running.taken:
                rooms[taken.node].change(taken, +1)
                counts[taken.node] = rooms[taken.node].holds(demand.bundle, demand.workers)
        nodes = place(demand, rooms)
        if nodes is None:
            return None
        spare = {name: rooms[name].copy() for name in nodes}
        take_all(demand, nodes, spare, now=self.free)
        return Reservation(demand, at_s, rooms, spare)

    def beside(self, demand: Demand, reservation: Reservation | None) -> list[str] | None:
        """Return nodes on which `demand` may run however long without pushing the reservation back."""
        if reservation is None:
            return place(demand, self.free)
        spare = reservation.spare
        nodes = place(demand, {name: room for name, room in self.free.items() if name not in spare})
        if nodes is not None:
            return nodes
        least = {name: room.least(spare[name]) if name in spare else room for name, room in self.free.items()}
        nodes = place(demand, least)
        if nodes is None:
            return None
        # The cluster chooses the GPU by what is free now, and that may be one that is waited for.
        taken = take_all(demand, nodes, {name: self.free[name].copy() for name in nodes})
        return nodes if reservation.allows(taken) else None

    def _backfill(
        self, shape: tuple[object, ...], nodes: list[str], reservation: Reservation | None
    ) -> tuple[Task, list[str]] | None:
        """Take the first task of this shape that does not push the reservation back."""
        heap = self.ready[shape]
        free = self.beside(self.tasks[heap[0][2]].demand, reservation)
        if free is not None:
            return self.tasks[heapq.heappop(heap)[2]], free
        assert reservation is not None
        latest_s = reservation.at_s - self.clock()
        soon = min((entry for entry in heap if self.tasks[entry[2]].cost_s <= latest_s), default=None)
        if soon is None:
            return None
        heap.remove(soon)
        heapq.heapify(heap)
        return self.tasks[soon[2]], nodes

    # -- keeping the books ----------------------------------------------------------------------------------

    def _weigh(self) -> None:
        """Work out the remaining path of every task that waits, and order those that are ready by it."""
        paths = remaining_paths([task for name, task in self.tasks.items() if name in self.waiting])
        self.paths |= paths
        for heap in self.ready.values():
            heap[:] = [(-self.paths[name], order, name) for _, order, name in heap]
            heapq.heapify(heap)

    def _make_ready(self, task: Task) -> None:
        heap = self.ready.setdefault(task.demand.shape, [])
        heapq.heappush(heap, (-self.paths[task.id], self.order[task.id], task.id))
        self._is_settled = False

    def _start(self, task: Task, nodes: list[str]) -> None:
        self.waiting.remove(task.id)
        taken = take_all(task.demand, nodes, self.free)
        self.running[task.id] = Running(task, tuple(nodes), taken, self.clock() + task.cost_s)

    def _release(self, task_id: str) -> None:
        self._give_back(self.running.pop(task_id).taken)
        self._is_settled = False

    def _give_back(self, taken: Sequence[Taken]) -> None:
        for one in taken:
            if one.node in self.free:
                self.free[one.node].change(one, +1)

    def _drop_dependants(self, task_id: str) -> list[str]:
        lost: set[str] = set()
        frontier = [task_id]
        while frontier:
            new = [name for name in self.dependants[frontier.pop()] if name in self.waiting and name not in lost]
            lost.update(new)
            frontier += new
        self.waiting -= lost
        return sorted(lost, key=self.order.__getitem__)
