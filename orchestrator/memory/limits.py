"""What memory there is: a GPU's as the place says, a machine's as its cgroup and kernel say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from orchestrator.memory.need import GIB
from orchestrator.memory.stages import is_on_gpu
from trainables.base import Place

USABLE = 0.94
"""Share of a GPU that a run can count on: CUDA's context, NCCL and the gaps of torch's allocator take the rest."""


def device_memory(place: Place) -> float | None:
    """Return the bytes of GPU memory that one worker may fill; None on a CPU, or where the place does not say."""
    if not is_on_gpu(place) or place.device_memory_gib is None:
        return None
    return place.device_memory_gib * min(place.gpus or 1.0, 1.0) * GIB


def machine_memory(root: Path = Path("/")) -> float | None:
    """Return the bytes that this process and its children may use: the smallest limit of the cgroups it is in.

    Without a limit, what the machine has; None where nothing says so. `root` is where /proc and /sys are.
    """
    limits = list(_limits(root))
    return float(min(limits)) if limits else None


def _limits(root: Path) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                yield int(line.split()[1]) * 1024
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield from _up(root / "sys/fs/cgroup", path, "memory.max")
            elif "memory" in controllers.split(","):
                yield from _up(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")


def _up(top: Path, path: str, name: str) -> Iterator[int]:
    """Yield the limits of a cgroup and of all above it; in a container its own may be the top."""
    folder = top / path.strip("/")
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):
            yield int((place / name).read_text())
        if place == top:
            return
