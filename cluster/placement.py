"""What a run asks of the cluster, and whether its nodes could ever give it.

Ray lets a request that no node can satisfy wait for ever without a word, so this is looked at before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cluster import rooms
from cluster.rooms import Demand, Resources, Room, Strategy
from orchestrator.errors import InfeasibleError
from trainables.base import Place

if TYPE_CHECKING:
    from ray.tune import PlacementGroupFactory

GIB = 2**30
SETTINGS = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gib"}
"""The field of `Place` that asks for each of Ray's resources."""

WHERE: Mapping[Strategy, str] = {"STRICT_PACK": "on one node", "STRICT_SPREAD": "on a node each"}
LOOSER: Mapping[Strategy, Strategy] = {"STRICT_PACK": "PACK", "STRICT_SPREAD": "SPREAD"}


def is_gang(place: Place) -> bool:
    """Say whether a run gets fresh processes of its own: several workers, or DeepSpeed, which survives no reuse."""
    return place.workers > 1 or place.zero_stage > 0


def demand(place: Place) -> Demand:
    """Return what a run occupies, by Ray's names; memory in bytes."""
    asked = {"CPU": place.cpus, "GPU": place.gpus, "memory": (place.memory_gib or 0.0) * GIB}
    bundle = {name: float(amount) for name, amount in asked.items() if amount > 0}
    return Demand(bundle, place.workers, place.strategy)


def slots(place: Place, nodes: Mapping[str, Resources]) -> int:
    """Return how many runs of such a place the nodes hold at once, at least one: their workers, wherever they are."""
    asked = demand(place)
    held = sum(Room.of(resources).holds(asked.bundle, MOST) for resources in nodes.values())
    return max(1, held // asked.workers)


MOST = 4096
"""Workers that are counted on one node, at most."""


def factory(place: Place) -> PlacementGroupFactory:
    """Return the placement group of a run: a bundle for each worker; for a gang's driver an empty one before them.

    An empty bundle occupies nothing and lies where the next one does, so the driver lives beside worker 0. With a
    bundle of its own, of half a CPU, two workers and their driver would never fit two cores.
    """
    from ray.tune import PlacementGroupFactory

    asked = demand(place)
    bundles = [dict(asked.bundle) for _ in range(asked.workers)]
    return PlacementGroupFactory([{}, *bundles] if is_gang(place) else bundles, strategy=place.strategy)


def bundles(place: Place) -> str:
    """Return the placement group in words: "driver {} + 8 x {GPU 1, CPU 4} STRICT_PACK"."""
    asked = demand(place)
    amounts = [
        f"{name} {_amount(name, asked.bundle[name])}" for name in ("GPU", "CPU", "memory") if name in asked.bundle
    ]
    driver = "driver {} + " if is_gang(place) else ""
    strategy = f" {place.strategy}" if asked.workers > 1 else ""
    return f"{driver}{asked.workers} x {{{', '.join(amounts)}}}{strategy}"


def check(places: Mapping[str, Place], nodes: Mapping[str, Resources]) -> None:
    """Raise InfeasibleError for the first stage that these nodes can never hold, with what they could."""
    empty = {name: Room.of(total) for name, total in nodes.items()}
    for stage, place in places.items():
        refuse_split_gpus(stage, place)
        asked = demand(place)
        if rooms.place(asked, empty) is not None:
            continue
        if any(room.holds(asked.bundle) for room in empty.values()):
            raise InfeasibleError(_too_many(stage, asked, empty))
        raise InfeasibleError(_too_large(stage, asked, nodes))


def refuse_split_gpus(stage: str, place: Place) -> None:
    """Raise InfeasibleError for an amount of GPUs that no worker can be given, on whatever machine."""
    if place.gpus > 1 and not rooms.is_whole(place.gpus):
        ways = " or ".join(f"--place {stage}.gpus={amount}" for amount in (int(place.gpus), int(place.gpus) + 1))
        raise InfeasibleError(
            f"{stage} asks for {place.gpus:g} GPUs; a worker has a share of one GPU, or whole ones. Use {ways}"
        )
    if place.workers > 1 and 0 < place.gpus < 1 and place.device != "cpu":
        raise InfeasibleError(
            f"{stage} asks for {place.gpus:g} GPUs for each of {place.workers} workers; NCCL needs a whole one for "
            f"each. Use --place {stage}.gpus=1, or --place {stage}.workers=1"
        )


def _too_large(stage: str, asked: Demand, nodes: Mapping[str, Resources]) -> str:
    """Say that no node holds even one worker, and what the largest has."""
    bundle = asked.bundle
    largest = max(nodes.values(), key=lambda total: _size(total, bundle), default={})
    lacking = [name for name in bundle if not _has(largest, name, bundle)]
    ways = " ".join(f"--place {stage}.{SETTINGS[name]}={_amount(name, largest.get(name, 0.0))}" for name in lacking)
    each = f" for each of {asked.workers} workers" if asked.workers > 1 else ""
    return (
        f"{stage} asks for {_described(bundle)}{each}; the largest node has {_described(largest, bundle)}. "
        f"Make it fit with {ways}"
    )


def _too_many(stage: str, asked: Demand, empty: Mapping[str, Room]) -> str:
    """Say how many of the workers the nodes hold, where one alone would fit."""
    counts = [room.holds(asked.bundle, asked.workers) for room in empty.values()]
    most, told = {
        "STRICT_PACK": (max(counts), f"the roomiest holds {max(counts)}"),
        "STRICT_SPREAD": (sum(map(bool, counts)), f"{sum(map(bool, counts))} of the nodes can hold one"),
    }.get(asked.strategy, (sum(counts), f"the cluster holds {sum(counts)} at a time"))
    ways = [f"--place {stage}.workers={most}"]
    looser = LOOSER.get(asked.strategy)
    if looser and rooms.place(Demand(asked.bundle, asked.workers, looser), empty) is not None:
        ways.append(f"--place {stage}.strategy={looser}")
    where = f" {WHERE[asked.strategy]} ({asked.strategy})" if asked.strategy in WHERE else ""
    return (
        f"{stage} asks for {asked.workers} workers of {_described(asked.bundle)} each{where}; {told}. "
        f"Make it fit with {' or '.join(ways)}"
    )


def _has(total: Resources, name: str, bundle: Resources) -> bool:
    return total.get(name, 0.0) + rooms.EPSILON >= bundle[name]


def _size(total: Resources, bundle: Resources) -> tuple[int, tuple[float, ...]]:
    """Order nodes by how many of the asked resources they have enough of, then by what they have, GPUs first."""
    enough = sum(_has(total, name, bundle) for name in bundle)
    return enough, tuple(total.get(name, 0.0) for name in ("GPU", "CPU", "memory"))


def _described(resources: Resources, asked: Resources | None = None) -> str:
    """Return "2 GPUs, 4 CPUs"; of `resources`, what `asked` names too."""
    names = [name for name in ("GPU", "CPU", "memory") if name in (resources if asked is None else asked)]
    return ", ".join(_words(name, resources.get(name, 0.0)) for name in names)


def _words(name: str, amount: float) -> str:
    shown = _amount(name, amount)
    return f"{shown} GiB of memory" if name == "memory" else f"{shown} {name}{'' if shown == '1' else 's'}"


def _amount(name: str, amount: float) -> str:
    """Return an amount as `--place` takes it, rounded down."""
    return f"{int(amount / GIB * 10) / 10:g}" if name == "memory" else f"{amount:g}"
