"""What holds the weights and updates them. The loop knows engines only through `Engine`.

An engine owns its optimiser and schedule and saves all that its next step depends on, so that the loop is the
same for one process and for several. It may share the model with other engines: it touches its own parameters.
Every method of an engine that several workers share is a point where all of them meet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.training.batches import Batch
from trainables.training.config import TrainingConfig
from trainables.training.models import autocast
from trainables.training.random_state import load_random_states, save_random_states
from trainables.training.shards import WEIGHTS, Shards
from trainables.training.workers import Workers

OPTIMIZER, STATE = "optimizer.safetensors", "engine.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
Compute: TypeAlias = Callable[[nn.Module, Batch], Tensor]


class Engine(Protocol):
    """The weights being trained, their gradients and their optimiser.

    `workers` are the processes that share the run. With `passes_meet`, they meet inside each forward and backward
    pass: all must make the same number of passes, outside inference mode, and a pass that broke off spoils the engine.
    """

    model: nn.Module
    device: torch.device
    workers: Workers
    passes_meet: bool

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""

    def forward(self, compute: Compute, batch: Batch) -> Tensor:
        """Return `compute(model, batch)` in the run's precision; every pass through the model goes through here."""

    def backward(self, loss: Tensor, *, is_last: bool = True) -> None:
        """Add the gradient of `loss` to those of this step; say whether it is the step's last."""

    def step(self) -> float:
        """Sum over the workers, clip, update, advance the schedule; return the gradient's norm before clipping."""

    def forget_gradients(self) -> None:
        """Drop what `backward` has added up since the last step."""

    def save(self, folder: Path) -> None:
        """Write all that the next step depends on (weights, optimiser, schedule, random numbers) to a folder."""

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote: bit for bit, or to rounding if other workers or another ZeRO stage wrote it."""

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the trained weights in fp32 by their names in the model; empty on all workers but the first."""

    def all_weights(self) -> dict[str, Tensor]:
        """Return the model's state dict; empty on all workers but the first."""

    def save_weights(self, path: Path) -> None:
        """Write the trained weights to a safetensors file; the first worker writes, for all."""

    def load_weights(self, path: Path) -> None:
        """Put back what `save_weights` wrote."""


class ProcessEngine:
    """An engine for one process and one device: torch's AdamW, transformers' schedules."""

    passes_meet = False

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        *,
        steps: int,
        device: torch.device,
        workers: Workers | None = None,
    ) -> None:
        """Train every parameter of `model` that requires a gradient, for `steps` updates."""
        self.model, self.device = model, device
        self.workers = workers or Workers(device=device)
        self.precision, self.max_grad_norm = config.precision, config.max_grad_norm
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.optimizer = adamw(self.parameters.values(), config)
        self.scheduler = make_scheduler(self.optimizer, config, steps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return float(self.scheduler.get_last_lr()[0])

    def forward(self, compute: Compute, batch: Batch) -> Tensor:
        """Return `compute(model, batch)` in the run's precision."""
        with autocast(self.precision, self.device):
            return compute(self.model, batch)

    def backward(self, loss: Tensor, *, is_last: bool = True) -> None:
        """Add the gradient of `loss` to those of this step."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        """Clip, update, advance the schedule; return the norm that the gradient had before clipping.

        In fp16 an update whose gradient overflowed is left out, as usual, while the loss scale adapts.
        """
        self.scaler.unscale_(self.optimizer)
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.forget_gradients()
        return norm.item()

    def forget_gradients(self) -> None:
        """Drop what `backward` has added up since the last step."""
        self.optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        """Write weights, optimiser, schedule, loss scale and random number generators to a folder."""
        self.save_weights(folder / WEIGHTS)
        save_random_states(folder, self.workers.rank, self.device)
        if not self.workers.is_first:
            return
        moments = {
            f"{key}:{name}": tensor
            for name, parameter in self.parameters.items()
            for key, tensor in self.optimizer.state[parameter].items()
        }
        save_file(moments, folder / OPTIMIZER)
        state = {"scheduler": self.scheduler.state_dict(), "scaler": self.scaler.state_dict()}
        (folder / STATE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote, or from the shards of an engine that divides the weights."""
        state = json.loads((folder / STATE).read_text())
        if (folder / WEIGHTS).exists():
            self.load_weights(folder / WEIGHTS)
            moments = load_file(folder / OPTIMIZER, device=str(self.device))
        else:
            moments = self._load_shards(Shards(folder), state["updates"])
        for key, tensor in moments.items():
            moment, _, name = key.partition(":")
            self.optimizer.state[self.parameters[name]][moment] = tensor
        load_random_states(folder, self.workers.rank, self.device)
        self.scaler.load_state_dict(state["scaler"])
        load_schedule(self.scheduler, self.optimizer, state["scheduler"])

    def _load_shards(self, shards: Shards, updates: int) -> dict[str, Tensor]:
        """Set the weights, return the optimiser's moments."""
        self._set_weights({name: shards.whole("weight", name) for name in self.parameters})
        moments: dict[str, Tensor] = {}
        for name, value in self.parameters.items() if updates else ():
            found = {key: shards.whole(key, name).view(value.shape).to(self.device) for key in MOMENTS}
            moments |= {f"{key}:{name}": tensor for key, tensor in found.items()}
            moments[f"step:{name}"] = torch.tensor(float(updates), device=self.device)
        return moments

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the trained weights by name; empty on all workers but the first."""
        if not self.workers.is_first:
            return {}
        return {name: value.detach().contiguous() for name, value in self.parameters.items()}

    def all_weights(self) -> dict[str, Tensor]:
        """Return the model's state dict; empty on all workers but the first."""
        return dict(self.model.state_dict()) if self.workers.is_first else {}

    def save_weights(self, path: Path) -> None:
        """Write the trained weights to a safetensors file; the first worker does."""
        if self.workers.is_first:
            save_file(self.trained_weights(), path)

    def load_weights(self, path: Path) -> None:
        """Put back what `save_weights` wrote; raises ValueError if it is from another model."""
        weights = load_file(path)
        if weights.keys() != self.parameters.keys():
            raise ValueError(f"{path} holds the weights of another model")
        self._set_weights(weights)

    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name].view(parameter.shape))


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int) -> Any:
    """Return the schedule of the learning rate over `steps` updates."""
    from transformers import get_scheduler

    # transformers' plain "constant" ignores warm-up steps.
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    return get_scheduler(name, optimizer, config.warmup_steps, steps)


def load_schedule(scheduler: Any, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put a schedule back where it was, and the optimiser's learning rates with it."""
    scheduler.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate


def adamw(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW; as usual weight decay is for matrices, not for biases and norms."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )
