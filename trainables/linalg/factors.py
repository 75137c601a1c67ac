"""Factors of weight changes on disk: one `factors.safetensors` for all layers.

Layers are written one after the other and read one at a time, so that neither the writer nor the reader
ever holds more than one layer in memory. All factors are fp32 and describe dW in (out, in) orientation,
whatever the layer stores: dW ~= U diag(S) V^T.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

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


class FactorWriter:
    """Writes `factors.safetensors` layer by layer, with the memory of one layer.

    `shapes` gives (out, in, rank) of every layer beforehand, because the format puts all shapes first; the layers
    are added in that order. The file has another name until the last of them is there.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, int, int]]) -> None:
        """Create the file and write its header."""
        self.path = folder / FILE
        self._shapes, self._waiting = shapes, list(shapes)
        self._beside = self.path.with_name(f".{FILE}.{os.getpid()}")
        self._stream = self._beside.open("wb")
        self._stream.write(_header(shapes))

    def add(self, layer: str, factors: Factors) -> None:
        """Append the next layer; raises ValueError if it is not the one announced, or of another shape."""
        if not self._waiting or layer != self._waiting[0]:
            raise ValueError(f"expected {self._waiting[:1]}, was given {layer!r}")
        rows, columns, rank = self._shapes[layer]
        parts = (factors.u, factors.s, factors.vt)
        if [tuple(part.shape) for part in parts] != [(rows, rank), (rank,), (rank, columns)]:
            raise ValueError(f"the factors of {layer} do not have (out, in, rank) {self._shapes[layer]}")
        for part in parts:
            self._stream.write(part.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        del self._waiting[0]

    def __enter__(self) -> FactorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the file its name; without its last layer it is removed, and ValueError raised if nothing else was."""
        self._stream.close()
        if error is None and not self._waiting:
            self._beside.replace(self.path)
            return
        self._beside.unlink()
        if error is None:
            raise ValueError(f"{self.path.name} lacks {len(self._waiting)} layers, first {self._waiting[0]!r}")


def save_factors(
    folder: Path, shapes: Mapping[str, tuple[int, int, int]], factors: Iterable[tuple[str, Factors]]
) -> Path:
    """Write `factors.safetensors` from an iterable of (layer, factors) in the order of `shapes`; return its path.

    Raises ValueError if a layer is missing, out of order or of another shape.
    """
    with FactorWriter(folder, shapes) as writer:
        for layer, found in factors:
            writer.add(layer, found)
    return writer.path


def _header(shapes: Mapping[str, tuple[int, int, int]]) -> bytes:
    """Return what a safetensors file begins with: the length of a JSON header, and the header."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (rows, columns, rank) in shapes.items():
        for part, shape in (("U", [rows, rank]), ("S", [rank]), ("Vt", [rank, columns])):
            end = offset + 4 * torch.Size(shape).numel()
            entries[f"{name}.{part}"] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
            offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
