"""The processes that share one run: who they are, what they agree on, and how they divide a batch.

Every worker reads the same data in the same order and takes its share of each global batch, so that losses, steps
and evaluations are those of one process. Whatever decides how a run goes on (stop, divergence, memory) is put to all
workers first: one that acted alone would leave the others waiting in a collective for ever.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from trainables.base import Context, Member

T = TypeVar("T")

CPU = torch.device("cpu")
PATIENCE = timedelta(hours=1)
"""How long a collective waits: rank 0 may be writing a large model to a slow disk meanwhile."""


@dataclass(frozen=True)
class Workers:
    """The workers of a run, seen from one of them; the default is a process on its own, which talks to nobody."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Say whether this is rank 0, whose files and metrics count."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up the tensors of all workers, in place; all of them end with the same bits."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set at any worker; a point that all of them have to reach."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)], dtype=torch.int32, device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def meet(self) -> None:
        """Wait until all workers are here."""
        self.any(False)

    def share(self, sequence: Sequence[T]) -> Sequence[T]:
        """Return this worker's part: consecutive items, the first workers with one more where it does not divide."""
        least, more = divmod(len(sequence), self.size)
        start = self.rank * least + min(self.rank, more)
        return sequence[start : start + least + (self.rank < more)]

    def largest_share(self, items: int) -> int:
        """Return the length of the longest part of `items` items."""
        return -(-items // self.size)


@contextlib.contextmanager
def join(context: Context, device: torch.device) -> Iterator[Workers]:
    """Meet the other workers of this run, and part from them at the end; raises RuntimeError if they are not as placed.

    A run with a ZeRO stage and no member is a gang of one: DeepSpeed wants a process group even for that. A plain
    run joins nothing.
    """
    place, member = context.place, context.member
    size = 1 if member is None else member.size
    if size != place.workers:
        raise RuntimeError(f"the run was placed on {place.workers} workers and started with {size}")
    if member is None and place.zero_stage == 0:
        yield Workers(device=device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    _initialise(backend, member)
    try:
        found = (dist.get_backend(), dist.get_world_size())
        if found != (backend, size):
            raise RuntimeError(f"torch.distributed started as {found} instead of {(backend, size)}")
        yield Workers(dist.get_rank(), size, device)
    finally:
        _leave()


def _initialise(backend: str, member: Member | None) -> None:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", message="`torch.distributed.*deprecated", category=FutureWarning)  # DeepSpeed's
    if member is None:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=PATIENCE)
        return
    where = f"tcp://{member.address}:{member.port}"
    dist.init_process_group(backend, init_method=where, rank=member.rank, world_size=member.size, timeout=PATIENCE)


def _leave() -> None:
    """Take the process group down, and what DeepSpeed remembers of it, so that the process can join another."""
    comm: Any = sys.modules.get("deepspeed.comm.comm")
    if comm is not None and comm.cdb is not None:
        comm.destroy_process_group()
        comm.cdb = None
    elif dist.is_initialized():
        dist.destroy_process_group()
