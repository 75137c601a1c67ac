"""A safetensors file written tensor by tensor, with the memory of one tensor: the library's own writer wants them all.

The format is 8 bytes of header length, a JSON header with every tensor's dtype, shape and place, then the data; so
shapes come first, and the tensors in the same order.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def write_tensors(
    path: Path, shapes: Mapping[str, Sequence[int]], tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype
) -> None:
    """Write `tensors`, cast to `dtype`, to a safetensors file; it has another name until the last of them is there.

    Raises ValueError if one is missing, out of order or not of the announced shape.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    waiting = list(shapes)
    try:
        with beside.open("wb") as stream:
            stream.write(_header(shapes, dtype))
            for name, tensor in tensors:
                if waiting[:1] != [name] or tuple(tensor.shape) != tuple(shapes[name]):
                    raise ValueError(f"expected {waiting[:1]}, was given {name!r} of shape {tuple(tensor.shape)}")
                stream.write(_bytes(tensor.detach().to("cpu", dtype)))
                del waiting[0]
        if waiting:
            raise ValueError(f"{path.name} lacks {len(waiting)} tensors, first {waiting[0]!r}")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()  # numpy has no bf16


def _header(shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + dtype.itemsize * math.prod(shape)
        entries[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
