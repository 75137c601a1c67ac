"""Counts with torch.distributed over gloo: at each step all workers add up their ranks; worker 0 keeps checkpoints.

`die_at` kills the last worker, at that step of the first attempt, while the others are in a collective.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from typing import Any

from tests.fakes import ROLES, FakeConfig, needs, sign
from tests.fakes.count import save, wait_for
from trainables.base import Context, Member, Metrics, Progress, Trainable


class RingConfig(FakeConfig):
    """How far to count, and where to be killed."""

    steps: int = 4
    die_at: int = 0


def run(config: RingConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Count from the last checkpoint on; `total` adds up step * the sum over all workers of rank + 1."""
    import torch
    import torch.distributed as dist

    member = context.member or Member(0, 1, "127.0.0.1", 0)
    attempt = sign(config, f"{context.run_id}-{member.rank}")
    join(dist, member)
    start, total = 0, 0
    if context.resume_from is not None:
        start, total = map(int, (context.resume_from / "state.txt").read_text().split())
    for step in range(start + 1, config.steps + 1):
        if step == config.die_at and attempt == 1 and member.rank == member.size - 1:
            wait_for(context.checkpoints / f"step-{step - 1}")
            os.kill(os.getpid(), signal.SIGKILL)
        shared = torch.tensor([(member.rank + 1) * step])
        dist.all_reduce(shared)
        total += int(shared)
        yield Progress(step, config.steps, {"total": float(total)})
        if member.rank == 0:
            save(context.checkpoints / f"step-{step}", step, total)
    facts = [None] * member.size
    dist.all_gather_object(facts, (os.getpid(), torch.get_num_threads(), os.environ["GLOO_SOCKET_IFNAME"]))
    dist.destroy_process_group()
    pids, threads, interfaces = (";".join(map(str, values)) for values in zip(*facts, strict=True))
    return {"total": total, "started_at": start, "pids": pids, "threads": threads, "interfaces": interfaces}


def join(dist: Any, member: Member) -> None:
    """Meet the other workers."""
    where = f"tcp://{member.address}:{member.port}"
    dist.init_process_group("gloo", init_method=where, rank=member.rank, world_size=member.size)


TRAINABLE = Trainable("ring", 1, RingConfig, run, roles=ROLES, needs=needs, cost_s=lambda config: 1.0)
