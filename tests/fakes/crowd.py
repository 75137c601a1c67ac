"""Counts in several workers that wait for each other at every step, by files: as much of a gang as needs no torch.

One worker may misbehave at one step of the first `times` attempts. The others then wait for ever, as in a collective.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Literal

from tests.fakes import ROLES, FakeConfig, needs, sign
from tests.fakes.count import save, wait_for
from trainables.base import Context, Metrics, Progress, Stopped, Trainable
from trainables.training.memory import MicroBatch, leave_word


class CrowdConfig(FakeConfig):
    """How far to count; which worker does what at which step, in how many attempts."""

    steps: int = 5
    pause_s: float = 0.0
    rank: int = 1
    does: Literal["", "die", "leave", "fail", "memory", "shrink"] = ""
    at: int = 3
    times: int = 1


def run(config: CrowdConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Count from the last checkpoint on; says in the end what each worker's process was given."""
    assert context.member is not None
    rank, size = context.member.rank, context.member.size
    attempts = sign(config, f"{context.run_id}-{rank}")
    board = context.checkpoints.with_name("board")
    board.mkdir(exist_ok=True)
    start, total = 0, 0
    if context.resume_from is not None:
        start, total = map(int, (context.resume_from / "state.txt").read_text().split())
    context.log(f"worker {rank} of {size} begins after step {start}")
    for step in range(start + 1, config.steps + 1):
        time.sleep(config.pause_s)
        if step == config.at and rank == config.rank and attempts <= config.times:
            if step > start + 1:
                wait_for(context.checkpoints / f"step-{step - 1}")
            misbehave(config, context)
        stops = meet(board, f"step-{step}", rank, size, str(int(context.stop_requested())))
        total += step
        yield Progress(step, config.steps, {"total": float(total)})
        if rank == 0:
            save(context.checkpoints / f"step-{step}", step, total)
        if "1" in stops:
            raise Stopped
    own = (os.getpid(), os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"), node())
    facts = [fact.split("/") for fact in meet(board, "facts", rank, size, "/".join(map(str, own)))]
    named = zip(("pids", "threads", "devices", "nodes"), zip(*facts, strict=True), strict=True)
    return {"total": total, "started_at": start, **{name: ";".join(values) for name, values in named}}


def meet(board: Path, name: str, rank: int, size: int, word: str) -> list[str]:
    """Leave word for the others, wait for theirs, and return all."""
    beside = board / f".{name}-{rank}"
    beside.write_text(word)
    beside.rename(board / f"{name}-{rank}")
    words = [board / f"{name}-{other}" for other in range(size)]
    while not all(path.exists() for path in words):
        time.sleep(0.01)
    return [path.read_text() for path in words]


def misbehave(config: CrowdConfig, context: Context) -> None:
    """Do what this worker does at this step."""
    if config.does == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.does == "leave":
        os._exit(7)
    if config.does == "shrink":
        leave_word(context.checkpoints, MicroBatch(4, 1))
    if config.does in ("memory", "shrink"):
        raise MemoryError("asked for too much")
    if config.does == "fail":
        context.log("about to fail")
        raise ValueError("there is no step 3\nand this line is only in the log")


def node() -> str:
    """Return Ray's name for the node of this process; empty outside Ray."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray is not None and ray.is_initialized() else ""


TRAINABLE = Trainable("crowd", 1, CrowdConfig, run, roles=ROLES, needs=needs, cost_s=lambda config: 1.0)
