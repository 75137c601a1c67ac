"""Weights and moments in pieces: what each worker holds of them, and how any number of workers reads them again.

A shard is one worker's part of a checkpoint: `shard-R.safetensors` with flat fp32 tensors named `KIND:PARAMETER`
(weight, exp_avg, exp_avg_sq), and in its header where each begins in the parameter it was cut from. So a checkpoint
can be read by another number of workers, at another ZeRO stage, or by one process that holds it whole.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainables.durable import flush

WEIGHTS = "weights.safetensors"


def save_shard(folder: Path, rank: int, pieces: Mapping[str, Tensor], starts: Mapping[str, int]) -> None:
    """Write one worker's pieces, `KIND:PARAMETER` -> flat tensor, and where those of each parameter start."""
    path = folder / f"shard-{rank}.safetensors"
    save_file(dict(pieces), path, metadata={"starts": json.dumps(dict(starts))})
    flush(path)  # by the worker that wrote it: rank 0 may be on another machine


class Shards:
    """The shards of a checkpoint as one."""

    def __init__(self, folder: Path) -> None:
        """Read the headers; raises ValueError if the folder holds no shards."""
        self.folder = folder
        self.files: list[Any] = [safe_open(path, framework="pt") for path in sorted(folder.glob("shard-*.safetensors"))]
        if not self.files:
            raise ValueError(f"{folder} holds no shards of weights")
        self.places: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for index, file in enumerate(self.files):
            starts = json.loads(file.metadata()["starts"])
            for key in file.keys():  # noqa: SIM118 - not a dict
                start = starts[key.partition(":")[2]]
                length = file.get_slice(key).get_shape()[0]
                self.places[key].append((start, start + length, index))

    def names(self) -> set[str]:
        """Return the names of the parameters that the shards hold."""
        return {key.partition(":")[2] for key in self.places}

    def whole(self, kind: str, name: str) -> Tensor:
        """Return all of a parameter's weight or moment, flat."""
        return self.part(kind, name, 0, max(end for _, end, _ in self.places[f"{kind}:{name}"]))

    def part(self, kind: str, name: str, start: int, end: int) -> Tensor:
        """Return the elements from `start` to `end` of a parameter's weight or moment, flat.

        Raises ValueError if the shards do not hold them all: one of the files is missing.
        """
        key = f"{kind}:{name}"
        found = torch.empty(end - start)
        copied = 0
        for first, last, index in self.places[key]:
            low, high = max(start, first), min(end, last)
            if low < high:
                found[low - start : high - start] = self.files[index].get_slice(key)[low - first : high - first]
                copied += high - low
        if copied != end - start:
            raise ValueError(f"{self.folder} lacks a part of {key}: {copied} of {end - start} elements are there")
        return found
