"""The precision that `auto` stands for, decided at planning from what the CPU can do, without torch.

It is decided before a run has a place, because precision is part of what a run is (contract C1): scales for
GPUs name theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from trainables.base import Planner
from trainables.training.config import Precision


class HasPrecision(Protocol):
    """A config with a precision."""

    @property
    def precision(self) -> Precision:
        """What the config says, `auto` included."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self:
        """Return a copy with these fields changed, as pydantic does."""


C = TypeVar("C", bound=HasPrecision)

FAST_BF16 = {"amx_bf16": "AMX bf16", "avx512_bf16": "AVX-512 bf16"}
CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def auto_precision(cpu_info: Path = CPU_INFO) -> tuple[str, str]:
    """Return the precision for this machine's CPU and the reason, as ("bf16", "the CPU has AVX-512 bf16")."""
    try:
        flags = next((line for line in cpu_info.read_text().splitlines() if line.startswith("flags")), "").split()
    except OSError:
        return "fp32", "the CPU does not say what it can do"
    for flag, name in FAST_BF16.items():
        if flag in flags:
            return "bf16", f"the CPU has {name}"
    return "fp32", "the CPU has neither AVX-512 bf16 nor AMX"


def pin_precision(config: C, planner: Planner) -> C:
    """Return the config with `auto` replaced by this machine's precision."""
    if config.precision != "auto":
        return config
    return config.model_copy(update={"precision": auto_precision()[0]})
