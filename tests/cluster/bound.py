"""How short a schedule can be at best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cluster.rooms import Demand, Resources
from cluster.schedule import Task, remaining_paths


def lower_bound_s(tasks: Sequence[Task], nodes: Mapping[str, Resources]) -> Iterator[tuple[str, float]]:
    """Yield what no schedule can beat, by name: the critical path, and each resource's work / its amount, seconds."""
    yield "critical path", max(remaining_paths(tasks).values(), default=0.0)
    for resource in sorted({name for total in nodes.values() for name in total}):
        amount = sum(total.get(resource, 0.0) for total in nodes.values())
        if amount > 0:
            yield resource, sum(task.cost_s * _amount(task.demand, resource) for task in tasks) / amount


def _amount(demand: Demand, resource: str) -> float:
    return demand.bundle.get(resource, 0.0) * demand.workers
