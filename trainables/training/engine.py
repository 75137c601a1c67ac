"""What holds the weights and updates them. The loop knows engines only through `Engine`.

An engine owns its optimiser and schedule and saves all that its next step depends on, so that the loop is the
same for one process and for several. It may share the model with other engines: it touches its own parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.training.config import TrainingConfig

WEIGHTS, OPTIMIZER, RNG, STATE = "weights.safetensors", "optimizer.safetensors", "rng.safetensors", "engine.json"


class Engine(Protocol):
    """The weights being trained, their gradients and their optimiser."""

    model: nn.Module
    device: torch.device

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to those of this step."""

    def step(self) -> float:
        """Clip, update, advance the schedule; return the norm that the gradient had before clipping."""

    def save(self, folder: Path) -> None:
        """Write all that the next step depends on (weights, optimiser, schedule, random numbers) to a folder."""

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""

    def save_weights(self, path: Path) -> None:
        """Write the trained weights to a safetensors file."""

    def load_weights(self, path: Path) -> None:
        """Put back what `save_weights` wrote."""


class ProcessEngine:
    """An engine for one process and one device: torch's AdamW, transformers' schedules."""

    def __init__(self, model: nn.Module, config: TrainingConfig, *, steps: int, device: torch.device) -> None:
        """Train every parameter of `model` that requires a gradient, for `steps` updates."""
        from transformers import get_scheduler

        self.model, self.device = model, device
        self.max_grad_norm = config.max_grad_norm
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.optimizer = _adamw(self.parameters.values(), config)
        # transformers' plain "constant" ignores warm-up steps.
        name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
        self.scheduler = get_scheduler(name, self.optimizer, config.warmup_steps, steps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return float(self.scheduler.get_last_lr()[0])

    def backward(self, loss: Tensor) -> None:
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
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()

    def save(self, folder: Path) -> None:
        """Write weights, optimiser, schedule, loss scale and random number generators to a folder."""
        self.save_weights(folder / WEIGHTS)
        moments = {
            f"{key}:{name}": tensor
            for name, parameter in self.parameters.items()
            for key, tensor in self.optimizer.state[parameter].items()
        }
        save_file(moments, folder / OPTIMIZER)
        save_file(_random_states(self.device), folder / RNG)
        state = {"scheduler": self.scheduler.state_dict(), "scaler": self.scaler.state_dict()}
        (folder / STATE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        self.load_weights(folder / WEIGHTS)
        for key, tensor in load_file(folder / OPTIMIZER, device=str(self.device)).items():
            moment, _, name = key.partition(":")
            self.optimizer.state[self.parameters[name]][moment] = tensor
        _restore_random_states(load_file(folder / RNG), self.device)
        state = json.loads((folder / STATE).read_text())
        self.scaler.load_state_dict(state["scaler"])
        self.scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def save_weights(self, path: Path) -> None:
        """Write the trained weights to a safetensors file."""
        save_file({name: value.detach().contiguous() for name, value in self.parameters.items()}, path)

    def load_weights(self, path: Path) -> None:
        """Put back what `save_weights` wrote; raises ValueError if it is from another model."""
        weights = load_file(path)
        if weights.keys() != self.parameters.keys():
            raise ValueError(f"{path} holds the weights of another model")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])


def _adamw(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
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


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
