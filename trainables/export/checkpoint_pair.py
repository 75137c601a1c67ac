"""Two checkpoints of one model, read side by side, tensor by tensor: the base's weight and how training changed it.

Whatever is wrong with the pair is found by `check` before the first change is computed: names, shapes and dtypes from
the headers, and then whether a tied tensor is really one. The files are memory-mapped and read in pieces of a few
megabytes at most, so a change costs one copy of its matrix in fp32, and a tensor that only needs its norms none at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from trainables.base import InputError
from trainables.checkpoint_files import TensorInfo, read_headers
from trainables.export.misfit import misfit
from trainables.export.noise import RoundingNoise
from trainables.export.spectrum import Excluded
from trainables.targets import Layout, Linear, Parameter

PIECE = {"cpu": 1 << 16, "cuda": 1 << 24}
"""Elements read at a time: a quarter of a megabyte of fp32 stays in a core's cache, and 64 MB keep a GPU busy."""


class Checkpoint:
    """The safetensors of a Hugging Face folder, one file or shards, memory-mapped; `label` names it in messages."""

    def __init__(self, folder: Path, label: str) -> None:
        """Read the headers; raises InputError where a file is missing or damaged."""
        self.folder, self.label = folder, label
        self.headers = read_headers(folder)
        self.files: dict[Path, Any] = {}
        self.prefixes = tuple(_shared_prefixes(self.headers))

    def stored_names(self, parameter: Parameter) -> list[str]:
        """Return the names under which this checkpoint stores a parameter: several where it stores a tied one twice.

        A prefix that all tensors share counts for nothing (`module.` of DistributedDataParallel, `_orig_mod.` of
        torch.compile, an outer model's).
        """
        candidates = [prefix + name for name in parameter.names for prefix in ("", *self.prefixes)]
        return [name for name in dict.fromkeys(candidates) if name in self.headers]

    def locate(self, parameter: Parameter) -> str | None:
        """Return the name that this checkpoint stores the parameter under, None if it does not."""
        return next(iter(self.stored_names(parameter)), None)

    def info(self, parameter: Parameter) -> TensorInfo:
        """Return what the header says of a parameter; InputError if it is not there."""
        name = self.locate(parameter)
        if name is None:
            raise InputError(f"the {self.label} has no tensor {parameter.name}; is it the same model? ({self.folder})")
        return self.headers[name]

    def read(self, parameter: Parameter) -> Tensor:
        """Return a parameter as it is stored, mapped: its values are read when they are used. InputError as above."""
        self.info(parameter)
        return self.tensor(self.stored_names(parameter)[0])

    def check_ties(self, parameter: Parameter) -> None:
        """Raise InputError if a parameter that the base ties is stored as two different tensors."""
        first, *others = self.stored_names(parameter)
        for other in others:
            pieces = zip(_pieces(self.tensor(first)), _pieces(self.tensor(other)), strict=False)
            is_one = self.headers[first].shape == self.headers[other].shape
            if not (is_one and all(torch.equal(one.double(), two.double()) for one, two in pieces)):
                raise InputError(
                    f"the {self.label} unties {other} from {first}, and the base ties them: an adapter of the base "
                    f"cannot hold two changes of one tensor ({self.folder})"
                )

    def tensor(self, name: str) -> Tensor:
        """Return the tensor of a stored name, mapped."""
        path = self.headers[name].file
        if path not in self.files:
            self.files[path] = safe_open(path, framework="pt")
        tensor: Tensor = self.files[path].get_tensor(name)
        return tensor


@dataclass(frozen=True)
class Norms:
    """How far training moved one tensor, in Frobenius norms summed in fp64.

    They are those of the change, of the base's weight, and of the tuned weight's rounding noise (see `noise`).
    """

    delta_norm: float
    weight_norm: float
    noise_norm: float


@dataclass(frozen=True)
class Change(Norms):
    """The same with the change itself, tuned - base in fp32, of the shape in which the checkpoint stores it."""

    delta: Tensor


@dataclass(frozen=True)
class CheckpointPair:
    """Base and tuned checkpoint of one model; changes are computed on `device`."""

    base: Checkpoint
    tuned: Checkpoint
    device: torch.device

    def check(self, parameters: Sequence[Parameter], *, targets: Sequence[Linear] = ()) -> None:
        """Raise InputError unless both checkpoints hold the base model's parameters, in floating point.

        Every name, shape and dtype is compared before any weight is read, and the message counts all that do not
        fit. Where a row is one token's, the tuned checkpoint may have another number of them, unless one of `targets`
        has its weight there. Last, tensors that the base ties are compared where a checkpoint stores them twice.
        """
        names = {linear.weight for linear in targets}
        found = [misfit(self.base, parameters, targets=names)]
        found += [misfit(self.tuned, parameters, base=self.base, targets=names)]
        lines = [line for line in found if line]
        if lines:
            raise InputError("; ".join(lines))
        for parameter in parameters:
            self.base.check_ties(parameter)
            self.tuned.check_ties(parameter)

    def dtypes(self, parameters: Sequence[Parameter]) -> tuple[list[str], list[str]]:
        """Return the dtypes that the base's and the tuned checkpoint's headers give these parameters."""
        base = {self.base.info(parameter).dtype for parameter in parameters}
        tuned = {self.tuned.info(parameter).dtype for parameter in parameters}
        return sorted(base), sorted(tuned)

    def change(self, parameter: Parameter) -> Change:
        """Return what training did to one tensor; InputError if either checkpoint holds NaN or infinity there.

        InputError too if the tuned checkpoint has other rows; `check`, told the targets, finds that before any work.
        """
        if self.rows(parameter):
            raise InputError(
                f"{parameter.name}: the vocabulary sizes differ, and an adapter adds no rows; leave it out"
            )
        delta = torch.empty(parameter.shape, dtype=torch.float32, device=self.device)
        norms = self._measure(parameter, delta.view(-1))
        return Change(norms.delta_norm, norms.weight_norm, norms.noise_norm, delta)

    def norms(self, parameter: Parameter) -> Norms:
        """Return the norms of one tensor's change, over the rows that both checkpoints have; InputError as `change`.

        Nothing is held in memory but one piece of either checkpoint, however large the tensor is.
        """
        return self._measure(parameter, None)

    def rows(self, parameter: Parameter) -> tuple[int, int] | None:
        """Return the numbers of rows of the base's and of the tuned tensor if they differ, else None."""
        base, tuned = self.base.info(parameter).shape, self.tuned.info(parameter).shape
        return (base[0], tuned[0]) if base[:1] != tuned[:1] else None

    def is_changed(self, parameter: Parameter) -> bool:
        """Say whether any value of a tensor's common rows differs; reads no further than the first that does."""
        pieces = zip(*map(_pieces, self._common_rows(parameter)), strict=True)
        return any(not torch.equal(was, now) for was, now in pieces)

    def excluded(self, layout: Layout, targets: Sequence[Linear]) -> Iterator[Excluded]:
        """Yield every tensor that is no target's weight, with the norm of its change and the reason; tied ones once."""
        factorised = {linear.weight for linear in targets}
        for parameter in layout.parameters:
            if not factorised & set(parameter.names):
                rows = self.rows(parameter)
                resized = rows and f"vocabulary {rows[0]} -> {rows[1]}: common rows only"
                reason = resized or parameter.reason or "not a target"
                yield Excluded(parameter.name, self.norms(parameter).delta_norm, reason)

    def _measure(self, parameter: Parameter, into: Tensor | None) -> Norms:
        """Return the norms, and write the change into `into`, a flat tensor, if there is one."""
        base, tuned = self._common_rows(parameter)
        noise = RoundingNoise(tuned.dtype)
        delta_square = weight_square = 0.0
        start = 0
        for was, now in zip(_pieces(base, self.device), _pieces(tuned, self.device), strict=True):
            moved = (now - was).float()
            if into is not None:
                into[start : start + len(moved)] = moved
            start += len(moved)
            delta_square += _square(moved)
            weight_square += _square(was)
            noise.add(now)
        self._check_finite(parameter, weight_square, delta_square)
        return Norms(math.sqrt(delta_square), math.sqrt(weight_square), noise.norm)

    def _common_rows(self, parameter: Parameter) -> tuple[Tensor, Tensor]:
        base, tuned = self.base.read(parameter), self.tuned.read(parameter)
        if base.shape != tuned.shape:  # `check` has let pass only tensors with other numbers of rows
            shared = min(len(base), len(tuned))
            base, tuned = base[:shared], tuned[:shared]
        return base, tuned

    def _check_finite(self, parameter: Parameter, weight_square: float, delta_square: float) -> None:
        """Squares of fp32 numbers cannot overflow fp64, so a sum is finite unless an element is not."""
        if not math.isfinite(weight_square):
            self._refuse(parameter, self.base)
        if not math.isfinite(delta_square):
            self._refuse(parameter, self.tuned)

    @staticmethod
    def _refuse(parameter: Parameter, checkpoint: Checkpoint) -> None:
        raise InputError(
            f"{parameter.name} of the {checkpoint.label} holds NaN or infinity: give a checkpoint from before that "
            f"({checkpoint.folder})"
        )


def _pieces(tensor: Tensor, device: torch.device | None = None) -> Iterator[Tensor]:
    """Yield a mapped tensor's values in order, flat, in fp32 (fp64 where it is stored so), on the device."""
    device = device or torch.device("cpu")
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    flat, size = tensor.reshape(-1), PIECE.get(device.type, PIECE["cuda"])
    for start in range(0, flat.numel(), size):
        yield flat[start : start + size].to(device, dtype)


def _square(tensor: Tensor) -> float:
    """Return the sum of squares in fp64."""
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def _shared_prefixes(names: Iterable[str]) -> Iterator[str]:
    """Yield the leading parts that all names share, with their dots: "module.", "module.model."."""
    paths = [name.split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            return
        shared.append(parts[0])
        yield ".".join(shared) + "."
