"""What a training run is decided by, for teachers and students alike.

How it is executed (device, micro-batch, gradient checkpointing, cadence of logs and checkpoints) is
`trainables.base.Place`: it changes nothing but rounding.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from trainables.base import Config

Precision: TypeAlias = Literal["auto", "bf16", "fp16", "fp32"]
Schedule: TypeAlias = Literal["constant", "linear", "cosine"]


class TrainingConfig(Config):
    """Optimiser, schedule, length, precision, seed and evaluations of one training run."""

    steps: int = Field(60, ge=1, description="optimiser steps")
    epochs: float | None = Field(None, gt=0, description="passes over the training data; replaces `steps`")
    batch_size: int = Field(8, ge=1, description="sequences per step, over all micro-batches and workers")
    learning_rate: float = Field(3e-5, gt=0, description="peak of the schedule")
    schedule: Schedule = Field("linear", description="after warm-up: constant, or decay to 0 at the last step")
    warmup_steps: int = Field(0, ge=0, description="steps of linear increase from 0")
    weight_decay: float = Field(0.0, ge=0, description="decoupled, on every trained weight (AdamW)")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float | None = Field(1.0, gt=0, description="clip the gradient's norm; none: no clipping")
    precision: Precision = Field("auto", description="of the arithmetic; weights and optimiser stay fp32")
    seed: int = Field(1, ge=0, lt=2**63, description="data order, adapter and dropout")
    eval_every: int = Field(10, ge=1, description="steps between evaluations; the first and last step always have one")
    eval_items: int | None = Field(None, ge=1, description="validation items to evaluate on; none: all")

    @model_validator(mode="after")
    def _leaves_steps_after_warm_up(self) -> Self:
        if self.epochs is None and 0 < self.steps <= self.warmup_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} leaves none of the {self.steps} steps; warm up for fewer"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what decides the result: not `steps` where `epochs` replaces it."""
        values = super().identity()
        if self.epochs is not None:
            del values["steps"]
        return values

    def total_steps(self, items: int) -> int:
        """Return the number of optimiser steps on a training set of `items` sequences."""
        if self.epochs is None:
            return self.steps
        return max(1, math.ceil(self.epochs * items / self.batch_size))
