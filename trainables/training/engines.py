"""Which engine trains a run, decided by where it is placed.

zero_stage   workers   engine
0            1         ProcessEngine, one process
0            more      ReplicaEngine, plain data parallelism without DeepSpeed
1, 2, 3      any       ZeroEngine, DeepSpeed
"""

from __future__ import annotations

from typing import Any

import torch

from trainables.base import Place
from trainables.training.config import TrainingConfig
from trainables.training.engine import Engine, ProcessEngine
from trainables.training.workers import Workers


def make_engine(model: Any, config: TrainingConfig, *, steps: int, place: Place, workers: Workers) -> Engine:
    """Return the engine for this place; from here on the model's parameters may lie in pieces on several workers."""
    if place.zero_stage:
        from trainables.training.zero_engine import ZeroEngine

        return ZeroEngine(model, config, steps=steps, workers=workers, place=place)
    if workers.size > 1:
        from trainables.training.replicas import ReplicaEngine

        return ReplicaEngine(model, config, steps=steps, device=workers.device, workers=workers)
    return ProcessEngine(model, config, steps=steps, device=workers.device)


def loading_device(place: Place, device: torch.device) -> torch.device:
    """Return where a model is loaded before an engine takes it: stage 3 moves it to its devices piece by piece."""
    return torch.device("cpu") if place.zero_stage == 3 else device
