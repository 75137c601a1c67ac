"""Canonical bytes, digests and differences: what makes two runs the same run (contract C1).

A digest is taken over canonical JSON: sorted keys, no spaces, UTF-8, floats by `repr`. Whatever has no
stable form (NaN, a set, an object, a path of this machine) is refused loudly instead of being turned into text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DIGEST_LENGTH = 12


def canonical(value: Any) -> bytes:
    """Return canonical JSON bytes of plain data; raises TypeError or ValueError for what has no stable form."""
    _refuse_unstable(value, "")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _refuse_unstable(value: Any, where: str) -> None:
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where or 'value'} is {value}: no stable form")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where or 'value'} has the key {key!r}: only text keys have a stable form")
            _refuse_unstable(item, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_unstable(item, f"{where}[{index}]")
    else:
        raise TypeError(f"{where or 'value'} is a {type(value).__name__}: no stable form")


def digest(value: Any) -> str:
    """Return the first 12 hex digits of the sha256 of the canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()[:DIGEST_LENGTH]


def run_id(stage: str, trainable: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return a run's id, such as `student-3f9c02ab71d4`.

    `config` is `Config.identity()`, `inputs` maps roles to run ids. Nothing else enters.
    """
    parts = {"stage": stage, "trainable": trainable, "version": version, "config": config, "inputs": inputs}
    return f"{stage}-{digest(parts)}"


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file, in hex; reads it in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield "name old -> new" for every field in which two plain mappings differ, nested fields dotted."""
    for key in sorted(set(old) | set(new)):
        name = f"{prefix}{key}"
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{name}.")
        elif before != after:
            yield f"{name} {_shown(before)} -> {_shown(after)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
