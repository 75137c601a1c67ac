"""How far a sweep is: what the screen shows, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["none", "running", "stopping", "over", "cut off"]


@dataclass(frozen=True)
class Running:
    """A run in progress. What is not known, or has no meaning for its stage, is None or empty.

    loss, held_out, best   training loss, held-out loss, the lowest held-out loss so far; per completion token
    trend                  the training losses so far, thinned out evenly
    left_s                 seconds until its last step at its present speed; before its first steps, as its stage takes
    """

    name: str
    stage: str
    attempt: int
    step: int
    total: int
    loss: float | None
    trend: tuple[float, ...]
    held_out: float | None
    best: float | None
    steps_per_s: float | None
    tokens_per_s: float | None
    left_s: float | None
    node: str
    device: str


@dataclass(frozen=True)
class Stage:
    """How many of a stage's runs are in which status; `later` are those that wait for a selection."""

    name: str
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Happened:
    """Something that happened, at a Unix time; `log` is relative to the store."""

    at: float
    kind: str
    text: str
    log: str = ""
    times: int = 1


@dataclass(frozen=True)
class State:
    """A sweep at one moment. `running` has the one that began first in front, `events` the newest last.

    Fractions of the whole, `done` of `total`, count the runs of this sweep: what was cached is in the stages only.
    `seen` are the measurements that any run has had so far: loss, held-out loss, tokens.
    """

    study: str
    store: str
    phase: Phase
    elapsed_s: float
    left_s: float
    done: int
    total: int
    stages: tuple[Stage, ...]
    running: tuple[Running, ...]
    events: tuple[Happened, ...]
    seen: frozenset[str] = frozenset()
