"""What a folder of safetensors holds, read from the headers alone: tensor names, types and shapes.

Planning asks this of models of any size, so nothing but the standard library is used and no weight is read. A
safetensors file is 8 bytes of header length, a JSON header, and the data up to the last offset in the header.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.base import InputError

INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
NOT_MODELS = ("adapter_", "optimizer", "scheduler", "training_args", "consolidated")
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint: its type as safetensors writes it ("F32", "BF16"), shape, and file."""

    dtype: str
    shape: tuple[int, ...]
    file: Path

    @property
    def elements(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that make up the model in `folder`; raises InputError if they are not all there."""
    index = folder / INDEX
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            lost = f"{len(missing)} of {len(names)} shards, first {missing[0]}" if missing else "no shards"
            raise InputError(f"{index} lists {lost} that the folder has not: copy the model again, all of its files")
        return [folder / name for name in names]
    found = [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith(NOT_MODELS)]
    if not found:
        raise InputError(_why_no_weights(folder))
    return found


def _why_no_weights(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return f"{folder} is a LoRA adapter, not a whole model: save it merged with its base (peft: merge_and_unload)"
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        return (
            f"{folder} has pickled weights only ({pickled[0]}), which can run code when loaded: convert them to "
            "safetensors where you trust them (transformers: model.save_pretrained(FOLDER))"
        )
    return f"{folder} has no weights: a model needs model.safetensors, or shards with {INDEX}"


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of one safetensors file by name; raises InputError if the file is cut off or another kind."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            raise InputError(f"{path} is a Git LFS pointer, not the weights: run git lfs pull in its folder")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise InputError(f"{path} is cut off or no safetensors file ({size} bytes): copy it again")
        try:
            header = dict(json.loads(stream.read(length)))
        except ValueError:
            raise InputError(f"{path} is no safetensors file (its header is not JSON): copy it again") from None
    header.pop("__metadata__", None)
    expected = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if expected != size:
        raise InputError(f"{path} is cut off: {size} bytes of {expected}; copy it again")
    return {name: TensorInfo(info["dtype"], tuple(info["shape"]), path) for name, info in header.items()}


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Return all tensors of the model in `folder`, one file or many, by name; raises InputError as above."""
    tensors: dict[str, TensorInfo] = {}
    for path in weight_files(folder):
        tensors |= read_header(path)
    if not tensors:
        raise InputError(f"{folder} has weights files without a single tensor: copy the model again")
    return tensors


def index_of(tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Return the content of the index file for shards that came without one."""
    total = sum(tensor.elements * BYTES.get(tensor.dtype, 1) for tensor in tensors.values())
    weight_map = {name: tensor.file.name for name, tensor in tensors.items()}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file; raises InputError naming the file if it is anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}): copy it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__} instead of a JSON object: copy it again")
    return value


def difference(given: Mapping[str, TensorInfo], base: Mapping[str, TensorInfo]) -> str | None:
    """Say in a phrase how two checkpoints differ in names and shapes, or None if they fit tensor by tensor.

    The prefix of the inner model ("model.", "transformer.") and buffers that older versions saved do not count,
    nor does an output head that only one of them stores although it is tied.
    """
    one, other = _comparable(given), _comparable(base)
    shapes = [name for name in one if name in other and one[name] != other[name]]
    if shapes:
        name = next((name for name in shapes if _is_embedding(name)), shapes[0])
        here, there = "x".join(map(str, one[name])), "x".join(map(str, other[name]))
        kind = "the vocabulary sizes differ: " if _is_embedding(name) else ""
        more = f" (and {len(shapes) - 1} more)" if len(shapes) > 1 else ""
        return f"{kind}{name} is {here}, the base's {there}{more}"
    missing, extra = _named(set(other) - set(one)), _named(set(one) - set(other))
    if missing or extra:
        phrases = [f"it lacks {missing}" if missing else "", f"the base lacks {extra}" if extra else ""]
        return " and ".join(phrase for phrase in phrases if phrase)
    return None


def _comparable(tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    buffers = re.compile(r"(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias)$")
    return {
        re.sub(r"^(model|transformer)\.", "", name): tensor.shape
        for name, tensor in tensors.items()
        if not buffers.search(name)
    }


def _is_embedding(name: str) -> bool:
    return name.endswith(("embed_tokens.weight", "wte.weight", "lm_head.weight"))


def _named(names: Iterable[str]) -> str:
    ordered = sorted(name for name in names if name != "lm_head.weight")
    more = f" and {len(ordered) - 1} more tensors" if len(ordered) > 1 else ""
    return f"{ordered[0]}{more}" if ordered else ""
