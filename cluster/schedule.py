"""Which ready run goes next: dependencies, priorities and admission. Pure; knows neither Ray nor the store.

List scheduling with a reservation. Ready tasks are taken by the longest path that remains behind them. The first
that does not fit now gets a reservation: the node, and the time, at which running tasks will have freed enough for
it, by their estimated ends. What comes after it may start only where that does not push this time back ("EASY
backfill", Lifka 1995; Mu'alem & Feitelson 2001), so a large task can never be starved by small ones. A task that
overruns its estimate counts as ending now, which lets nothing more in ahead of the reservation.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Resources: TypeAlias = Mapping[str, float]
"""Amounts by the name of the resource, such as {"CPU": 2, "GPU": 0.5}."""

Shape: TypeAlias = tuple[tuple[str, float], ...]

EPSILON = 1e-6
"""Fractions of a resource are added and subtracted; Ray itself counts in ten-thousandths."""


@dataclass(frozen=True)
class Task:
    """What a schedule knows of a run: what it needs first, what it occupies, how long it may take."""

    id: str
    needs: tuple[str, ...] = ()
    request: Resources = field(default_factory=dict)
    cost_s: float = 1.0

    @property
    def shape(self) -> Shape:
        """The request in a form that can be a key: tasks of one shape fit, or do not, together."""
        return tuple(sorted((name, amount) for name, amount in self.request.items() if amount > 0))


@dataclass
class Running:
    """A task that has been started, the node it is taken to be on, and its estimated end on the schedule's clock."""

    task: Task
    node: str
    ends_s: float


@dataclass(frozen=True)
class Reservation:
    """Where and when a waiting task will start, and what that node can spare until after it has started."""

    node: str
    at_s: float
    spare: Resources


def fits(request: Resources, free: Resources) -> bool:
    """Say whether `request` can be taken from `free`."""
    for name, amount in request.items():  # noqa: SIM110 - the innermost loop, twice as fast as all()
        if amount > free.get(name, 0.0) + EPSILON:
            return False
    return True


def remaining_paths(tasks: Sequence[Task]) -> dict[str, float]:
    """Return, for each task, the seconds of the longest chain that starts with it; `tasks` in dependency order."""
    behind: dict[str, float] = {}
    paths: dict[str, float] = {}
    for task in reversed(tasks):
        paths[task.id] = task.cost_s + behind.get(task.id, 0.0)
        for need in task.needs:
            behind[need] = max(behind.get(need, 0.0), paths[task.id])
    return paths


class Schedule:
    """The tasks of one sweep. `next` takes the task to start now; `ended`, `left` and `again` say what became of it.

    Tasks come in dependency order and need only each other. `next` costs nothing while nothing has changed, and
    otherwise grows with the number of distinct shapes, nodes and running tasks; only behind a reservation does it
    look at all ready tasks.
    """

    def __init__(
        self, tasks: Sequence[Task], nodes: Mapping[str, Resources], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the tasks and what each node has in all."""
        self.tasks = {task.id: task for task in tasks}
        self.nodes = {name: dict(resources) for name, resources in nodes.items()}
        self.free = {name: dict(resources) for name, resources in nodes.items()}
        self.clock = clock
        self.paths = remaining_paths(tasks)
        self.order = {task.id: index for index, task in enumerate(tasks)}
        self.missing = {task.id: len(set(task.needs)) for task in tasks}
        self.dependants: dict[str, list[str]] = {task.id: [] for task in tasks}
        for task in tasks:
            for need in set(task.needs):
                self.dependants[need].append(task.id)
        self.ready: dict[Shape, list[tuple[float, int, str]]] = {}
        self.running: dict[str, Running] = {}
        self.running_on: dict[str, dict[str, Running]] = {name: {} for name in nodes}
        self.waiting = set(self.tasks)
        self._is_settled = False
        for task in tasks:
            if not self.missing[task.id]:
                self._make_ready(task)

    def next(self) -> Task | None:
        """Take the task that should start now, or return None if none should until something ends."""
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

    def moved(self, task_id: str, node: str) -> None:
        """Correct the node of a running task: the cluster, not the schedule, has the last word on it."""
        running = self.running.get(task_id)
        if running is None or running.node == node or node not in self.nodes:
            return
        self._give(running.node, running.task.request, +1)
        del self.running_on[running.node][task_id]
        self._give(node, running.task.request, -1)
        self.running_on[node][task_id] = running
        running.node = node
        self._is_settled = False

    # -- choosing -------------------------------------------------------------------------------------------

    def _choose(self) -> tuple[Task, str] | None:
        held: Task | None = None
        reservation: Reservation | None = None
        for shape in sorted((shape for shape, heap in self.ready.items() if heap), key=lambda s: self.ready[s][0]):
            top = self.tasks[self.ready[shape][0][2]]
            nodes = [node for node, free in self.free.items() if fits(top.request, free)]
            if held is None:
                if nodes:
                    heapq.heappop(self.ready[shape])
                    return top, self._tightest(nodes, top.request)
                held = top
                continue
            if nodes:
                reservation = reservation or self._reserve(held)
                found = self._backfill(shape, nodes, reservation)
                if found is not None:
                    return found
        return None

    def _tightest(self, nodes: Iterable[str], request: Resources) -> str:
        """Return the node that is left with the least, so that large requests keep finding whole nodes."""

        def left(node: str) -> tuple[float, float]:
            free = self.free[node]
            return free.get("GPU", 0.0) - request.get("GPU", 0.0), free.get("CPU", 0.0) - request.get("CPU", 0.0)

        return min(nodes, key=left)

    def _reserve(self, task: Task) -> Reservation | None:
        """Return where the task can start soonest, by the estimated ends of what runs; None if nowhere ever."""
        now = self.clock()
        options = []
        for node, total in self.nodes.items():
            if not fits(task.request, total):
                continue
            free, at_s = dict(self.free[node]), now
            for running in sorted(self.running_on[node].values(), key=lambda running: running.ends_s):
                if fits(task.request, free):
                    break
                at_s = max(running.ends_s, now)
                for resource, amount in running.task.request.items():
                    free[resource] = free.get(resource, 0.0) + amount
            spare = {name: amount - task.request.get(name, 0.0) for name, amount in free.items()}
            options.append(Reservation(node, at_s, spare))
        return min(options, key=lambda option: option.at_s, default=None)

    def _backfill(self, shape: Shape, nodes: Sequence[str], reservation: Reservation | None) -> tuple[Task, str] | None:
        """Take the first task of this shape that does not push the reservation back."""
        heap = self.ready[shape]
        request = self.tasks[heap[0][2]].request
        elsewhere = [node for node in nodes if reservation is None or node != reservation.node]
        if elsewhere or (reservation is not None and fits(request, reservation.spare)):
            task = self.tasks[heapq.heappop(heap)[2]]
            return task, self._tightest(elsewhere or nodes, request)
        assert reservation is not None
        latest_s = reservation.at_s - self.clock()
        soon = min((entry for entry in heap if self.tasks[entry[2]].cost_s <= latest_s), default=None)
        if soon is None:
            return None
        heap.remove(soon)
        heapq.heapify(heap)
        return self.tasks[soon[2]], reservation.node

    # -- keeping the books ----------------------------------------------------------------------------------

    def _make_ready(self, task: Task) -> None:
        heap = self.ready.setdefault(task.shape, [])
        heapq.heappush(heap, (-self.paths[task.id], self.order[task.id], task.id))
        self._is_settled = False

    def _start(self, task: Task, node: str) -> None:
        self.waiting.remove(task.id)
        self._give(node, task.request, -1)
        self.running[task.id] = self.running_on[node][task.id] = Running(task, node, self.clock() + task.cost_s)

    def _release(self, task_id: str) -> None:
        running = self.running.pop(task_id)
        del self.running_on[running.node][task_id]
        self._give(running.node, running.task.request, +1)
        self._is_settled = False

    def _drop_dependants(self, task_id: str) -> list[str]:
        lost: set[str] = set()
        frontier = [task_id]
        while frontier:
            new = [name for name in self.dependants[frontier.pop()] if name in self.waiting and name not in lost]
            lost.update(new)
            frontier += new
        self.waiting -= lost
        return sorted(lost, key=self.order.__getitem__)

    def _give(self, node: str, request: Resources, sign: int) -> None:
        free = self.free[node]
        for name, amount in request.items():
            free[name] = free.get(name, 0.0) + sign * amount


def lower_bound_s(tasks: Sequence[Task], nodes: Mapping[str, Resources]) -> Iterator[tuple[str, float]]:
    """Yield what no schedule can beat, by name: the critical path, and each resource's work / its amount, seconds."""
    yield "critical path", max(remaining_paths(tasks).values(), default=0.0)
    for resource in sorted({name for total in nodes.values() for name in total}):
        amount = sum(total.get(resource, 0.0) for total in nodes.values())
        if amount > 0:
            yield resource, sum(task.cost_s * task.request.get(resource, 0.0) for task in tasks) / amount
