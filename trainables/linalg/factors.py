"""Factors of weight changes on disk: one `factors.safetensors` for all layers.

Layers are written one after the other and read one at a time, so that neither the writer nor the reader
ever holds more than one layer in memory. All factors are fp32 and describe dW in (out, in) orientation,
whatever the layer stores: dW ~= U diag(S) V^T.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.linalg.tensor_file import write_tensors

FILE = "factors.safetensors"


@dataclass(frozen=True)
class Factors:
    """The leading singular triplets of a change: `u` (out, r), `s` (r), descending, and `vt` (r, in)."""

    u: Tensor
    s: Tensor
    vt: Tensor

    @property
    def rank(self) -> int:
        """The number of singular triplets."""
        return len(self.s)

    def truncated(self, rank: int) -> Factors:
        """Return the leading `rank` triplets; raises ValueError if there are fewer."""
        if rank > self.rank:
            raise ValueError(f"{rank} singular triplets asked for, {self.rank} are there")
        return Factors(self.u[:, :rank], self.s[:rank], self.vt[:rank])

    def delta(self) -> Tensor:
        """Return the change (out, in) that the factors stand for."""
        return (self.u * self.s) @ self.vt


class FactorFile(Mapping[str, Factors]):
    """The factors of a folder by layer name, each read from disk when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Open `folder/factors.safetensors`; raises FileNotFoundError."""
        from safetensors import safe_open

        self.path = folder / FILE
        self._file: Any = safe_open(str(self.path), framework="pt")
        names: list[str] = self._file.keys()  # type: ignore[no-untyped-call]
        self._layers = [name.removesuffix(".S") for name in names if name.endswith(".S")]

    def __getitem__(self, layer: str) -> Factors:
        if layer not in self._layers:
            raise KeyError(layer)
        u, s, vt = (self._file.get_tensor(f"{layer}.{part}") for part in ("U", "S", "Vt"))
        return Factors(u, s, vt)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def load_factors(folder: Path) -> Mapping[str, Factors]:
    """Return the factors of an export by layer name, read lazily; raises FileNotFoundError."""
    return FactorFile(folder)


def save_factors(
    folder: Path, shapes: Mapping[str, tuple[int, int, int]], factors: Iterable[tuple[str, Factors]]
) -> Path:
    """Write `factors.safetensors` layer by layer, with the memory of one layer; return its path.

    `shapes` gives (out, in, rank) of every layer beforehand, and `factors` the layers in that order. Raises ValueError
    if a layer is missing, out of order or of another shape.
    """
    announced: dict[str, tuple[int, ...]] = {}
    for layer, (rows, columns, rank) in shapes.items():
        announced |= {f"{layer}.U": (rows, rank), f"{layer}.S": (rank,), f"{layer}.Vt": (rank, columns)}
    parts = (
        (f"{layer}.{name}", part)
        for layer, found in factors
        for name, part in (("U", found.u), ("S", found.s), ("Vt", found.vt))
    )
    write_tensors(folder / FILE, announced, parts, torch.float32)
    return folder / FILE
