"""What one worker of a run holds in memory, by part and by phase; in bytes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

GIB = 2**30


@dataclass(frozen=True)
class Parts:
    """Bytes of one kind of memory at one time."""

    weights: float = 0.0
    gradients: float = 0.0
    optimiser: float = 0.0
    activations: float = 0.0

    @property
    def total(self) -> float:
        """Their sum."""
        return self.weights + self.gradients + self.optimiser + self.activations

    def __add__(self, other: Self) -> Parts:
        names = [field.name for field in fields(self)]
        return Parts(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class Phase:
    """What a worker holds in one phase of its run: on its device, and in the machine's memory beside that."""

    name: str
    device: Parts = Parts()
    host: Parts = Parts()


@dataclass(frozen=True)
class Need:
    """All phases of one worker, `workers` of whom share the run. A run on a CPU has its device in the machine's memory.

    `process` is what interpreter and libraries take of the machine's memory before any weight is read.
    """

    phases: tuple[Phase, ...]
    is_on_gpu: bool
    workers: int = 1
    process: float = 0.0

    @property
    def peak(self) -> Phase:
        """The phase in which the device holds most; on a CPU, the machine."""
        return max(self.phases, key=lambda phase: self._parts(phase).total)

    @property
    def parts(self) -> Parts:
        """The peak by part: of the device, and on a CPU of all that the worker holds."""
        return self._parts(self.peak)

    @property
    def device(self) -> float:
        """The most that one worker holds on its GPU; 0 without one."""
        return self.parts.total if self.is_on_gpu else 0.0

    @property
    def host(self) -> float:
        """The most that one worker holds of the machine's memory, its process included."""
        own = max(phase.host.total + (0.0 if self.is_on_gpu else phase.device.total) for phase in self.phases)
        return own + self.process

    def _parts(self, phase: Phase) -> Parts:
        return phase.device if self.is_on_gpu else phase.device + phase.host
