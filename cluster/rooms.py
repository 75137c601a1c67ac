"""What fits where: bundles of resources on nodes. Pure arithmetic; knows neither Ray nor runs.

All workers of a run ask for the same bundle, so a node is described by how many of these it can hold. CPUs and
memory are divisible; GPUs are not: two bundles of 0.6 do not fit one GPU beside each other, nor one of 0.6 into the
halves of two. So the free share of every single GPU is kept, and a share is taken, as Ray does, from the fullest GPU
that still has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Resources: TypeAlias = Mapping[str, float]
"""Amounts by the name of the resource, such as {"CPU": 2, "GPU": 0.5}."""

Strategy: TypeAlias = Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"]

EPSILON = 1e-6
"""Fractions of a resource are added and subtracted; Ray itself counts in ten-thousandths."""


@dataclass(frozen=True)
class Demand:
    """What a run occupies: a bundle for each of its workers, and how these may lie on nodes."""

    bundle: Resources = field(default_factory=dict)
    workers: int = 1
    strategy: Strategy = "PACK"

    @property
    def shape(self) -> tuple[object, ...]:
        """The demand in a form that can be a key: runs of one shape fit, or do not, together."""
        amounts = tuple(sorted((name, amount) for name, amount in self.bundle.items() if amount > 0))
        return (amounts, 1, "") if self.workers == 1 else (amounts, self.workers, self.strategy)


@dataclass(frozen=True)
class Taken:
    """What one bundle holds on a node: divisible amounts by name, shares by the number of the GPU."""

    node: str
    amounts: Resources
    gpus: Mapping[int, float]


@dataclass
class Room:
    """What is free on one node: divisible amounts by name, and the free share of each of its GPUs."""

    amounts: dict[str, float]
    gpus: list[float]

    @classmethod
    def of(cls, resources: Resources) -> Room:
        """Return an empty node that has these resources in all."""
        amounts = {name: amount for name, amount in resources.items() if name != "GPU"}
        return cls(amounts, [1.0] * int(resources.get("GPU", 0.0) + EPSILON))

    def copy(self) -> Room:
        """Return the same room, to reckon with."""
        return Room(dict(self.amounts), list(self.gpus))

    def holds(self, bundle: Resources, at_most: int = 1) -> int:
        """Return how many of `bundle` fit here beside each other, up to `at_most`."""
        count = at_most
        for name, amount in bundle.items():
            if amount <= 0:
                continue
            if name == "GPU":
                count = min(count, self._gpu_bundles(amount))
            else:
                count = min(count, int((self.amounts.get(name, 0.0) + EPSILON) / amount))
            if count <= 0:
                return 0
        return count

    def take(self, node: str, bundle: Resources, now: Room | None = None) -> Taken:
        """Take a bundle out of this room of that name; of whole GPUs rather those that are not free in `now`.

        What the cluster has granted although it is not here is taken too: the room then has less than nothing.
        """
        amounts = {name: amount for name, amount in bundle.items() if name != "GPU" and amount > 0}
        taken = Taken(node, amounts, self._gpu_shares(bundle.get("GPU", 0.0), now))
        self.change(taken, -1)
        return taken

    def change(self, taken: Taken, sign: int) -> None:
        """Take back what a bundle held (+1), or let it hold that once more (-1)."""
        for name, amount in taken.amounts.items():
            self.amounts[name] = self.amounts.get(name, 0.0) + sign * amount
        for number, share in taken.gpus.items():
            self.gpus[number] += sign * share

    def least(self, other: Room) -> Room:
        """Return what is free both here and in another state of this node."""
        amounts = {name: min(amount, other.amounts.get(name, 0.0)) for name, amount in self.amounts.items()}
        return Room(amounts, [min(pair) for pair in zip(self.gpus, other.gpus, strict=True)])

    def left(self, bundle: Resources) -> tuple[float, float]:
        """Return the GPUs and CPUs that would remain: the order of preference is to leave little."""
        return sum(self.gpus) - bundle.get("GPU", 0.0), self.amounts.get("CPU", 0.0) - bundle.get("CPU", 0.0)

    def _gpu_bundles(self, amount: float) -> int:
        if amount < 1:
            return sum(max(0, int((share + EPSILON) / amount)) for share in self.gpus)
        return sum(share > 1 - EPSILON for share in self.gpus) // int(amount) if is_whole(amount) else 0

    def _gpu_shares(self, amount: float, now: Room | None) -> dict[int, float]:
        if amount <= 0 or not self.gpus:
            return {}
        numbers = range(len(self.gpus))
        if amount < 1:
            enough = [number for number in numbers if self.gpus[number] > amount - EPSILON]
            fullest = min(enough, key=self.gpus.__getitem__) if enough else max(numbers, key=self.gpus.__getitem__)
            return {fullest: amount}
        order = sorted(numbers, key=lambda number: (self.gpus[number] <= 1 - EPSILON, now.gpus[number] if now else 0.0))
        return dict.fromkeys(order[: int(amount)], 1.0)


def is_whole(amount: float) -> bool:
    """Say whether an amount is a whole number."""
    return abs(amount - round(amount)) < EPSILON


def place(demand: Demand, rooms: Mapping[str, Room]) -> list[str] | None:
    """Return a node for each bundle, in the order of the workers, or None if they do not all fit now.

    One node, the tightest that will do, where packing is allowed; else as many as there are (SPREAD), each once
    (STRICT_SPREAD), or as few as possible (PACK).
    """
    wanted = demand.workers
    counts = {name: count for name, room in rooms.items() if (count := room.holds(demand.bundle, wanted))}
    if demand.strategy in ("PACK", "STRICT_PACK") or wanted == 1:
        whole = [name for name, count in counts.items() if count == wanted]
        if whole or demand.strategy == "STRICT_PACK":
            return [tightest(whole, rooms, demand.bundle)] * wanted if whole else None
    if demand.strategy == "STRICT_SPREAD":
        ordered = sorted(counts, key=lambda name: rooms[name].left(demand.bundle))[:wanted]
        return ordered if len(ordered) == wanted else None
    if sum(counts.values()) < wanted:
        return None
    roomiest = sorted(counts, key=lambda name: -counts[name])
    if demand.strategy == "PACK":
        return [name for name in roomiest for _ in range(counts[name])][:wanted]
    return list(itertools.islice(_in_turn(roomiest, counts), wanted))


def tightest(names: Iterable[str], rooms: Mapping[str, Room], bundle: Resources) -> str:
    """Return the node that is left with the least, so that large demands keep finding whole nodes."""
    return min(names, key=lambda name: rooms[name].left(bundle))


def can_place(demand: Demand, counts: Mapping[str, int]) -> bool:
    """Say whether the workers fit, given how many of their bundles each node holds, up to `demand.workers`."""
    if demand.workers == 1 or demand.strategy == "STRICT_PACK":
        return any(count >= demand.workers for count in counts.values())
    if demand.strategy == "STRICT_SPREAD":
        return sum(count > 0 for count in counts.values()) >= demand.workers
    return sum(counts.values()) >= demand.workers


def take_all(
    demand: Demand, nodes: Sequence[str], rooms: Mapping[str, Room], now: Mapping[str, Room] | None = None
) -> tuple[Taken, ...]:
    """Take a bundle from the room of each of `nodes`; from those that are gone, nothing."""
    return tuple(rooms[node].take(node, demand.bundle, now[node] if now else None) for node in nodes if node in rooms)


def _in_turn(names: Sequence[str], counts: Mapping[str, int]) -> Iterable[str]:
    """Yield each name as often as it counts, one of each in turn."""
    for turn in range(max(counts.values())):
        yield from (name for name in names if counts[name] > turn)
