"""Tuned checkpoints of the tiny models, made by changing the base's tensors."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trainables.tiny_models import base_model
from trainables.export.checkpoint_pair import Checkpoint, CheckpointPair

WEIGHTS = "model.safetensors"


def changed(family: str, folder: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """Copy a tiny model with `change(name, tensor)` in place of each tensor of its checkpoint."""
    shutil.copytree(base_model(family), folder)
    tensors = load_file(folder / WEIGHTS)
    save_file({name: change(name, tensor).contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    return folder


@functools.cache
def teacher(family: str) -> Path:
    """A checkpoint that differs from the tiny model in every tensor."""
    draw = torch.Generator().manual_seed(3)
    folder = Path(tempfile.mkdtemp()) / "teacher"
    return changed(family, folder, lambda _, tensor: tensor + 0.02 * torch.randn(tensor.shape, generator=draw))


def pair_of(family: str, tuned: Path | None = None) -> CheckpointPair:
    """The tiny model and a tuned checkpoint of it, side by side."""
    base, other = Checkpoint(base_model(family), "base"), Checkpoint(tuned or teacher(family), "teacher")
    return CheckpointPair(base, other, torch.device("cpu"))
