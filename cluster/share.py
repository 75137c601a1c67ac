"""One worker's share of a run that several execute: what happens inside each process of a gang.

The same in a Ray actor and in a subprocess. `Orders` come in, `Said` goes out; both are small and plain. What a worker
measured counts only if it is worker 0, which alone keeps the notes of the attempt.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import pickle
import socket
import struct
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.attempt import Steps, make_context
from cluster.base import Job
from cluster.ending import Ending
from cluster.notes import Log, Notes
from orchestrator.store import Attempt
from trainables.base import Context, Member, Place, Progress

REPORT_EVERY_S = 0.1
"""How often worker 0 says how far it is."""
SIOCGIFADDR = 0x8915
"""Linux' request for the address of a network interface."""


@dataclass(frozen=True)
class Orders:
    """What a worker of a gang is told: the run, the attempt that all share, who it is, and which GPUs are its own.

    `devices` is the value of CUDA_VISIBLE_DEVICES; None: it is set already. Once the file `halt` exists the run stops.
    """

    job: Job
    attempt: Attempt
    member: Member
    halt: Path | None = None
    devices: str | None = None


@dataclass(frozen=True)
class Said:
    """What a worker says: the steps since it last spoke, how its generator ended, or what of ours has broken."""

    progress: tuple[Progress, ...] = ()
    ending: Ending | None = None
    problem: Exception | None = None


@dataclass
class SharedContext(Context):
    """Knows whether the trainable has asked who it is: one that has not would do everything in every worker."""

    was_asked: bool = False

    def __getattribute__(self, name: str) -> Any:
        if name == "member":
            self.was_asked = True
        return super().__getattribute__(name)


@dataclass
class Share:
    """A run's generator in one of its workers."""

    orders: Orders
    steps: Steps = field(init=False)

    def __post_init__(self) -> None:
        """Set up this process, before any numerical library is imported, and make the generator."""
        orders, member = self.orders, self.orders.member
        if orders.devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = orders.devices
        self.is_first = member.rank == 0
        log = Log(orders.attempt.output / "log.txt" if self.is_first else rank_log(orders.attempt, member.rank))
        context = make_context(orders.job, orders.attempt, log, orders.halt)
        if member.size > 1:
            choose_interface(member)
        self.context = SharedContext(**{**vars(context), "member": member if member.size > 1 else None})
        note = Notes.found(orders.attempt, time.time()).note if self.is_first else _note_nothing
        self.steps = Steps(orders.job, self.context, note)

    def advance(self, seconds: float) -> Said:
        """Go on for so long, at least by one step; workers other than the first go on to the end."""
        until = time.monotonic() + (seconds if self.is_first else math.inf)
        progress = []
        for step in self.steps:
            if self.works_alone():
                return Said(ending=self._refused())
            progress += [step] if self.is_first else []
            if time.monotonic() >= until:
                break
        ending = self.steps.ending
        is_refused = ending is not None and ending.status == "done" and self.works_alone()
        return Said(tuple(progress), self._refused() if is_refused else ending)

    def works_alone(self) -> bool:
        """Say whether the generator has come this far as if there were no other workers."""
        return self.orders.member.size > 1 and not self.context.was_asked

    def _refused(self) -> Ending:
        self.steps.close()
        stage = self.orders.job.run.stage
        return Ending("failed", error=f"{stage} cannot be shared by several workers: use --place {stage}.workers=1")


def hide_gpus(place: Place) -> None:
    """Let a run that asks for no GPU see none: Ray shows all of them to those that asked for none."""
    if not place.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def rank_log(attempt: Attempt, rank: int) -> Path:
    """Return the log of a worker other than the first; it lies beside the attempt's output."""
    return attempt.folder / f"log-rank-{rank}.txt"


def portable(error: Exception) -> Exception:
    """Return the error, or its traceback as text if it does not survive pickling."""
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(error))  # noqa: S301 - what we have just pickled
        return error
    return RuntimeError("".join(traceback.format_exception(error)))


def choose_interface(member: Member) -> None:
    """Let gloo use the interface that leads to worker 0; it would look up the host's own name, often in vain."""
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    with contextlib.suppress(OSError):
        name = interface_towards(member.address, member.port)
        if name is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = name


def interface_towards(address: str, port: int) -> str | None:
    """Return the interface whose address this machine uses to reach another; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))
        own = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                request = struct.pack("256s", name.encode()[:15])
                if fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)[20:24] == own:
                    return name
    return None


def free_port(address: str) -> int:
    """Return a TCP port that nobody listens on at this address of this machine."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def _note_nothing(progress: Progress) -> None:
    """Do nothing: worker 0 keeps the notes."""
