"""What a training run leaves beside its weights: metrics and `training.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from trainables.base import Metrics
from trainables.training.config import TrainingConfig
from trainables.training.loop import Trained


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return how many parameters are trained, and how many there are, tied ones once."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, is_trained in counts if is_trained), sum(count for count, _ in counts)


def final_metrics(trained: Trained, trainable: int, total: int) -> Metrics:
    """Return a run's final metrics; the share of trained parameters is a fraction, not a percentage."""
    counts = {"trainable_parameters": trainable, "total_parameters": total, "trainable_share": trainable / total}
    return {**trained.metrics(), **counts}


def write_summary(folder: Path, config: TrainingConfig, metrics: Metrics) -> None:
    """Write `training.json`: the settings and the final metrics, for whoever has only the folder."""
    summary: dict[str, Any] = {"config": config.model_dump(mode="json"), "metrics": dict(metrics)}
    (folder / "training.json").write_text(json.dumps(summary, indent=1) + "\n")
