"""Counts with torch.distributed: each step all workers add up their ranks; worker 0 keeps a checkpoint of each.

May die, fail, hang or disagree in one of its workers, at one step of the first `times` attempts.
"""

from __future__ import annotations

import datetime
import os
import signal
import time
from collections.abc import Generator
from typing import Literal

from tests.fakes import ROLES, FakeConfig, sign
from tests.fakes.count import save
from trainables.base import Context, Diverged, Metrics, Progress, Stopped, Trainable


class RingConfig(FakeConfig):
    """How far to count; which worker does what at which step, in how many attempts."""

    steps: int = 6
    pause_s: float = 0.0
    rank: int = 1
    does: Literal["", "die", "fail", "leave", "hang", "diverge", "late"] = ""
    at: int = 3
    times: int = 1


def run(config: RingConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Count from the last checkpoint on; `total` adds up (sum of ranks + 1) * step."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    member = context.member
    rank, size = (0, 1) if member is None else (member.rank, member.size)
    attempts = sign(config, f"{context.run_id}-{rank}")
    context.log(f"worker {rank} of {size} is process {os.getpid()}")
    if member is not None:
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://{member.address}:{member.port}",
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=600),
        )
    start, total = 0, 0
    if context.resume_from is not None:
        start, total = map(int, (context.resume_from / "state.txt").read_text().split())
    misbehaves = rank == config.rank and attempts <= config.times
    for step in range(start + 1, config.steps + 1):
        time.sleep(config.pause_s)
        if step == config.at and misbehaves:
            misbehave(config)
        shared = torch.tensor([(rank + 1) * step, int(context.stop_requested())])
        if member is not None:
            dist.all_reduce(shared)
        total += int(shared[0])
        yield Progress(step, config.steps, {"total": float(total)})
        if rank == 0:
            save(context.checkpoints / f"step-{step}", step, total)
        if shared[1]:
            raise Stopped
    facts = [None] * size
    mine = (os.getpid(), os.environ.get("OMP_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES"), node_id())
    if member is not None:
        dist.all_gather_object(facts, mine)
        dist.destroy_process_group()
    if rank == 0:
        (context.output / "total.txt").write_text(str(total))
    if config.does == "late" and misbehaves:
        time.sleep(1.0)
        raise ValueError("worker 0 was done before this")
    found = facts if member is not None else [mine]
    return {"total": total, "started_at": start, "size": size, **described(found)}


def misbehave(config: RingConfig) -> None:
    """Do what this worker does at this step."""
    if config.does == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.does == "leave":
        os._exit(7)
    if config.does == "hang":
        time.sleep(3600)
    if config.does == "diverge":
        raise Diverged("loss is nan at step 3")
    if config.does == "fail":
        raise ValueError("no such step\nand this line is only in the log")


def node_id() -> str:
    """Return Ray's name for the node of this process; empty outside Ray."""
    import sys

    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray is not None and ray.is_initialized() else ""


def described(facts: list[tuple[int, str, str, str]]) -> Metrics:
    """Return what each worker's process was given, joined by semicolons in the order of the ranks."""
    names = ("pids", "threads", "devices", "nodes")
    return {name: ";".join(str(fact[index]) for fact in facts) for index, name in enumerate(names)}


TRAINABLE = Trainable("ring", 1, RingConfig, run, roles=ROLES, cost_s=lambda config: 1.0)
