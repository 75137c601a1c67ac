"""Trainables that do as little as a test of a backend needs, named by their module: `tests.fakes.sleep`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from orchestrator.identity import run_id
from orchestrator.plan import Run
from trainables import find
from trainables.base import Config, Place, Scalar

ROLES = ("first", "second", "third")
"""What a fake may need: other fakes, whatever they are."""


class FakeConfig(Config):
    """What every fake can be told."""

    seed: int = 0
    ledger: str = ""
    reads: int = 0


def needs(config: FakeConfig) -> tuple[str, ...]:
    """Return the first `reads` of the roles."""
    return ROLES[: config.reads]


def sign(config: FakeConfig, context_id: str) -> int:
    """Write this execution into the test's ledger; return how many of the same run it holds now."""
    if not config.ledger:
        return 1
    with Path(config.ledger).open("a") as stream:
        stream.write(f"{context_id} {os.getpid()}\n")
    return sum(line.split()[0] == context_id for line in Path(config.ledger).read_text().splitlines())


def make_run(
    fake: str,
    *needs: Run,
    stage: str = "student",
    place: Place | None = None,
    cost_s: float | None = None,
    **config: Scalar,
) -> Run:
    """Return a run of a fake, with an id as the planner would give it."""
    name = f"tests.fakes.{fake}"
    trainable = find(name)
    typed = trainable.config.model_validate(config)
    inputs: Mapping[str, str] = dict(zip(ROLES, (run.id for run in needs), strict=False))
    identity = run_id(stage, name, trainable.version, typed.identity(), inputs)
    cost_s = trainable.cost_s(typed) if cost_s is None else cost_s
    return Run(
        identity, stage, name, trainable.version, typed, inputs, place or Place(), f"{fake} {identity}", {}, cost_s
    )
