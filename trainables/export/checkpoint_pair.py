"""Two checkpoints of one model, read side by side, tensor by tensor: the base's weight and how training changed it.

Everything that can be wrong with the pair (names, shapes, dtypes) is found from the headers by `check`, before the
first weight is read; a weight that is not finite is refused by name when it is reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from trainables.base import InputError
from trainables.checkpoint_files import TensorInfo, read_headers
from trainables.targets import Parameter

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


class Checkpoint:
    """The safetensors of a Hugging Face folder, one file or shards, memory-mapped; `label` names it in messages."""

    def __init__(self, folder: Path, label: str) -> None:
        """Read the headers; raises InputError where a file is missing or damaged."""
        self.folder, self.label = folder, label
        self.headers = read_headers(folder)
        self.files: dict[Path, Any] = {}

    def find(self, parameter: Parameter) -> str:
        """Return the name that this checkpoint stores the parameter under; InputError if it does not."""
        name = next((name for name in parameter.names if name in self.headers), None)
        if name is None:
            raise InputError(f"the {self.label} in {self.folder} has no tensor {parameter.name}; is it the same model?")
        return name

    def info(self, parameter: Parameter) -> TensorInfo:
        """Return what the header says of a parameter."""
        return self.headers[self.find(parameter)]

    def check(self, parameter: Parameter) -> None:
        """Raise InputError if the parameter is missing, of another shape, or not of floating point."""
        name, info = self.find(parameter), self.info(parameter)
        if info.shape != parameter.shape:
            raise InputError(
                f"{name} of the {self.label} has shape {_times(info.shape)} and the base model's config says "
                f"{_times(parameter.shape)}: both must be checkpoints of one model ({self.folder})"
            )
        if info.dtype not in FLOATS:
            raise InputError(
                f"{name} of the {self.label} is stored as {info.dtype}: give a checkpoint that is not quantised"
            )

    def read(self, parameter: Parameter, device: torch.device) -> Tensor:
        """Return a parameter's values in fp32; InputError if it is stored twice, as two different tensors."""
        name = self.find(parameter)
        tensor = self._stored(name)
        for other in parameter.names:
            if other != name and other in self.headers and not torch.equal(tensor, self._stored(other)):
                raise InputError(f"the {self.label} in {self.folder} unties {other} from {name}; the base ties them")
        return tensor.to(device, torch.float32)

    def _stored(self, name: str) -> Tensor:
        path = self.headers[name].file
        if path not in self.files:
            self.files[path] = safe_open(path, framework="pt")
        tensor: Tensor = self.files[path].get_tensor(name)
        return tensor


@dataclass(frozen=True)
class Change:
    """What training did to one tensor, as it is stored; norms are Frobenius norms summed in fp64."""

    delta: Tensor
    delta_norm: float
    weight_norm: float
    noise_norm: float = 0.0


@dataclass(frozen=True)
class CheckpointPair:
    """Base and tuned checkpoint of one model."""

    base: Checkpoint
    tuned: Checkpoint
    device: torch.device

    def check(self, parameters: Sequence[Parameter]) -> None:
        """Raise InputError unless both checkpoints hold these parameters in the right shapes, in floating point."""
        for parameter in parameters:
            self.base.check(parameter)
            self.tuned.check(parameter)

    def dtypes(self, parameters: Sequence[Parameter]) -> tuple[list[str], list[str]]:
        """Return the dtypes that the base's and the tuned checkpoint's headers give these parameters."""
        base = {self.base.info(parameter).dtype for parameter in parameters}
        tuned = {self.tuned.info(parameter).dtype for parameter in parameters}
        return sorted(base), sorted(tuned)

    def change(self, parameter: Parameter) -> Change:
        """Return tuned - base of one tensor in fp32; InputError if either holds NaN or infinity."""
        base, tuned = self.base.read(parameter, self.device), self.tuned.read(parameter, self.device)
        weight_norm = _finite_norm(base, parameter, self.base)
        _finite_norm(tuned, parameter, self.tuned)
        delta = tuned - base
        return Change(delta, _norm(delta), weight_norm)


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _finite_norm(tensor: Tensor, parameter: Parameter, checkpoint: Checkpoint) -> float:
    """Return the norm; squares of fp32 numbers cannot overflow fp64, so it is finite unless an element is not."""
    norm = _norm(tensor)
    if not math.isfinite(norm):
        raise InputError(f"{parameter.name} of the {checkpoint.label} holds NaN or infinity ({checkpoint.folder})")
    return norm


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
