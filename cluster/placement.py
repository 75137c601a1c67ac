"""What a run asks of the cluster, and whether any node could ever give it.

Ray lets a request that no node can satisfy wait for ever without a word, so this is looked at before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cluster.schedule import Resources, fits
from orchestrator.errors import InfeasibleError
from trainables.base import Place

if TYPE_CHECKING:
    from ray.tune import PlacementGroupFactory

GIB = 2**30
SETTINGS = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gib"}
"""The field of `Place` that asks for each of Ray's resources."""


def request(place: Place) -> dict[str, float]:
    """Return what one worker of a run occupies, by Ray's names; memory in bytes."""
    asked = {"CPU": place.cpus, "GPU": place.gpus, "memory": (place.memory_gib or 0.0) * GIB}
    return {name: float(amount) for name, amount in asked.items() if amount > 0}


def factory(resources: Resources) -> PlacementGroupFactory:
    """Return the placement group of a run: one bundle, in which its process lives."""
    from ray.tune import PlacementGroupFactory

    return PlacementGroupFactory([dict(resources)])


def check(places: Mapping[str, Place], nodes: Mapping[str, Resources]) -> None:
    """Raise InfeasibleError for the first stage that no node can hold, with what the largest node has."""
    for stage, place in places.items():
        refuse_gangs(stage, place)
        asked = request(place)
        if any(fits(asked, total) for total in nodes.values()):
            continue
        largest = max(nodes.values(), key=lambda total: _size(total, asked), default={})
        lacking = [name for name, amount in asked.items() if not fits({name: amount}, largest)]
        ways = " ".join(f"--place {stage}.{SETTINGS[name]}={_amount(name, largest.get(name, 0.0))}" for name in lacking)
        raise InfeasibleError(
            f"{stage} asks for {_described(asked)}; the largest node has {_described(largest, asked)}. "
            f"Make it fit with {ways}"
        )


def refuse_gangs(stage: str, place: Place) -> None:
    """Raise InfeasibleError for a run of several workers, which no backend executes yet."""
    if place.workers > 1:
        raise InfeasibleError(
            f"{stage} asks for {place.workers} workers; a run is one process here. Use --place {stage}.workers=1"
        )


def _size(total: Resources, asked: Resources) -> tuple[int, tuple[float, ...]]:
    """Order nodes by how many of the asked resources they have enough of, then by what they have, GPUs first."""
    enough = sum(fits({name: amount}, total) for name, amount in asked.items())
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
