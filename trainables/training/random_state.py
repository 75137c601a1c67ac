"""The random number generators of a run's workers, in its checkpoints: one small file a worker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators that training on `device` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `random_states` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def save_random_states(folder: Path, rank: int, device: torch.device) -> None:
    """Write a worker's states to a checkpoint's folder."""
    save_file(random_states(device), folder / _name(rank))


def load_random_states(folder: Path, rank: int, device: torch.device) -> None:
    """Put back a worker's states; a worker that the run did not have before keeps those of its seed."""
    path = folder / _name(rank)
    if path.exists():
        restore_random_states(load_file(path), device)


def _name(rank: int) -> str:
    return "rng.safetensors" if rank == 0 else f"rng-{rank}.safetensors"
