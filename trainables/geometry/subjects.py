"""The change of whatever is tested, layer by layer: factors of an adapter or an export, or another whole checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from trainables.checkpoint_files import read_json
from trainables.export.checkpoint_pair import Checkpoint
from trainables.geometry.subspaces import directions
from trainables.linalg.adapter_factors import AdapterFactors
from trainables.linalg.factors import Factors, load_factors
from trainables.linalg.truncated import truncated_svd
from trainables.subject import kind_of
from trainables.targets import Linear, Parameter

WHOLE = 16
"""Directions looked at of a change that was not trained at a rank."""


class Subject(Protocol):
    """How a tested model differs from the base."""

    @property
    def rank(self) -> int:
        """The rank it was trained or cut at."""

    def tuned(self, linear: Linear, parameter: Parameter, base: Tensor) -> Tensor:
        """Return the tested model's weight (out, in), on the device of the base's."""

    def left(self, linear: Linear, change: Tensor, rank: int) -> Tensor:
        """Return the leading left singular vectors (out, k) of `change`, k <= rank: fewer where the change has fewer.

        `change` is the tested model's weight minus the base's.
        """


@dataclass(frozen=True)
class LowRank:
    """A student or a truncated teacher: factors, of which no product is formed but the sum with a weight."""

    factors: Mapping[str, Factors]
    rank: int
    cut: int | None = None
    """The rank at which the factors are cut off; None: they are whole."""

    def tuned(self, linear: Linear, parameter: Parameter, base: Tensor) -> Tensor:
        """Return base + U S V^T; the base's own weight where there are no factors."""
        found = self._factors(linear)
        if found is None:
            return base
        summed: Tensor = torch.addmm(base, (found.u * found.s).to(base), found.vt.to(base))
        return summed

    def left(self, linear: Linear, change: Tensor, rank: int) -> Tensor:
        """Return the vectors that the factors hold."""
        found = self._factors(linear)
        if found is None:
            return change[:, :0]
        return directions(found.u, found.s)[:, :rank].to(change)

    def _factors(self, linear: Linear) -> Factors | None:
        if linear.name not in self.factors:
            return None
        found = self.factors[linear.name]
        return found if self.cut is None else found.truncated(min(self.cut, found.rank))


@dataclass(frozen=True)
class Whole:
    """A whole model: a teacher, one that was merged, one that was trained on."""

    checkpoint: Checkpoint
    rank: int = WHOLE

    def tuned(self, linear: Linear, parameter: Parameter, base: Tensor) -> Tensor:
        """Return the weight as it is stored."""
        return read_weight(self.checkpoint, linear, parameter, base.device)

    def left(self, linear: Linear, change: Tensor, rank: int) -> Tensor:
        """Factorise the change."""
        return leading_directions(change, linear.rank(rank))


def open_subject(folder: Path, cut: int | None) -> Subject:
    """Return what the folder's files say it is: `adapter/`, an export to be cut at a rank, or a whole model."""
    if kind_of(folder) == "student":
        adapter = AdapterFactors(folder / "adapter")
        return LowRank(adapter, _trained_rank(folder) or adapter.rank)
    if cut is not None:
        return LowRank(load_factors(folder), cut, cut)
    return Whole(Checkpoint(folder, "subject"))


def _trained_rank(folder: Path) -> int | None:
    """Return the rank that a student was trained at: half the saved one where its start is subtracted."""
    summary = folder / "training.json"
    rank = read_json(summary).get("config", {}).get("rank") if summary.is_file() else None
    return None if rank is None else int(rank)


def read_weight(checkpoint: Checkpoint, linear: Linear, parameter: Parameter, device: torch.device) -> Tensor:
    """Return a layer's weight (out, in) in fp32."""
    stored = checkpoint.read(parameter).to(device, torch.float32)
    return stored.T if linear.is_transposed else stored


def leading_directions(change: Tensor, rank: int) -> Tensor:
    """Return the leading left singular vectors (out, k) of a change, k <= rank: none of a zero change."""
    found = truncated_svd(change, rank).factors
    return directions(found.u, found.s)
