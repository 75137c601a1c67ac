"""What runs write: artefacts that stay, and checkpoints while a run lasts; in bytes, at most.

A checkpoint of AdamW is 12 bytes a trained parameter (fp32 weights and two moments): 91 GB for 7.6 billion. It is
renamed into place before the one before it goes, so there are two for a moment, each with the best weights so far
(4 bytes more; a link, until better ones are found). An artefact is the last weights in fp32 and the best ones, if
those are others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.memory.fit import StageMemory
from orchestrator.memory.need import GIB
from orchestrator.memory.training import Trained
from orchestrator.plan import Run
from trainables.base import Place
from trainables.base_models.shape import Shape
from trainables.ia3 import IA3Config
from trainables.student import StudentConfig
from trainables.svd_export import SvdExportConfig
from trainables.teacher import TeacherConfig

CHECKPOINT, BEST = 12, 4
"""Bytes a trained parameter."""
GPUS_OF_A_NODE = 8


@dataclass(frozen=True)
class StageDisk:
    """What the runs of a stage leave, and what those that run side by side take beside that while they last."""

    stage: str
    kept: float
    working: float


def disk(memory: Iterable[StageMemory], cpus: float) -> list[StageDisk] | None:
    """Return the disk of each stage; None if the model's size is not known."""
    found = []
    for item in memory:
        if item.facts.shape is None:
            return None
        each = [_of_run(run, item.facts.shape) for run in item.runs]
        largest = sorted((working for _, working in each), reverse=True)
        working = sum(largest[: _at_once(item.run.place, cpus)])
        found.append(StageDisk(item.stage, sum(kept for kept, _ in each), working))
    return found


def most(stages: Iterable[StageDisk]) -> float:
    """Return the disk that is enough for all: what stays, and the largest stage in work."""
    stages = list(stages)
    return sum(stage.kept for stage in stages) + max((stage.working for stage in stages), default=0.0)


def gib_of(memory: Iterable[StageMemory], cpus: float) -> float | None:
    """Return the disk that is enough for all runs in GiB; None if the model's size is not known."""
    found = disk(memory, cpus)
    return None if found is None else most(found) / GIB


def _at_once(place: Place, cpus: float) -> int:
    """Return how many runs of a place go side by side: on a node of eight GPUs, or on the cores of this machine."""
    if place.gpus:
        return max(1, int(GPUS_OF_A_NODE / (place.gpus * place.workers)))
    return max(1, int(cpus / (place.cpus * place.workers)))


def _of_run(run: Run, shape: Shape) -> tuple[float, float]:
    """Return what a run leaves and what it takes beside that while it lasts."""
    config, place = run.config, run.place
    if run.trainable == "base_model":
        return 4.0 * shape.parameters, 0.0
    if isinstance(config, SvdExportConfig):
        factors = 4.0 * shape.adapter(config.rank)
        return factors, factors
    if isinstance(config, StudentConfig):
        adapter = shape.adapter(config.rank)
        return _trained(Trained(shape, adapter, adapter), adapter, config.steps, place)
    if isinstance(config, TeacherConfig):
        elements = shape.parameters if config.parameters == "all" else shape.layers * shape.block_weights
        return _trained(Trained(shape, elements), shape.parameters, config.steps, place)
    if isinstance(config, IA3Config):
        return _trained(Trained(shape, 0), shape.parameters, config.steps, place)
    return (4.0 * shape.parameters, 0.0) if run.trainable == "lora_mean" else (0.0, 0.0)


def _trained(trained: Trained, saved: float, steps: int, place: Place) -> tuple[float, float]:
    """Return last and best weights, and the checkpoints: two for a moment, or one beside the finished artefact."""
    kept = 2 * 4.0 * saved
    best = BEST * trained.elements
    if steps <= place.checkpoint_every:
        return kept, best
    return kept, max(2 * (CHECKPOINT * trained.elements + best) - kept, CHECKPOINT * trained.elements + best)
