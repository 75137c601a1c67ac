"""A gang's workers as processes of this machine, each fresh and in a session of its own.

Driver and worker talk over one socket pair. Whoever finds its end closed knows that the other has gone: the driver
ends the gang, a worker ends itself and whatever it has started. So no end of the driver leaves processes behind.

    python -m cluster.processes DESCRIPTOR      what the driver starts; of no use by hand
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO

from cluster.base import Job
from cluster.ending import Ending
from cluster.paths import python_path
from cluster.share import REPORT_EVERY_S, Orders, Said, Share, free_port, portable
from orchestrator.store import Attempt
from trainables.base import Member, Place

LOOPBACK = "127.0.0.1"


@dataclass
class Worker:
    """One process, the driver's end of its socket, and what it has written to stdout and stderr."""

    process: subprocess.Popen[bytes]
    connection: Connection
    output: IO[bytes]

    def fate(self) -> str:
        """Say how the process ended, once its end of the socket is closed."""
        code = self.process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.output.seek(0)
        last = self.output.read().decode(errors="replace").strip().splitlines()[-1:]
        return ": ".join([how, *last])

    def end(self) -> None:
        """Kill the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()
        self.output.close()


class ProcessCrew:
    """Processes of this machine. See `cluster.gang.Crew`."""

    address = LOOPBACK

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.workers: list[Worker] = []
        self.spoken: dict[Connection, int] = {}

    def free_port(self) -> int:
        """Return a port that worker 0 may listen on."""
        return free_port(LOOPBACK)

    def start(self, job: Job, attempt: Attempt, members: Iterable[Member], halt: Path | None) -> None:
        """Start a process for each member and give it its orders."""
        for member in members:
            devices = ",".join(own_devices(job.run.place, member.rank))
            worker = spawn(job.run.place)
            self.workers.append(worker)
            self.spoken[worker.connection] = member.rank
            with contextlib.suppress(BrokenPipeError):  # gone already: its socket says so
                worker.connection.send_bytes(pickle.dumps(Orders(job, attempt, member, halt, devices)))

    def hear(self, timeout_s: float) -> Iterator[tuple[int, Said]]:
        """Wait until a worker speaks; yield ranks and what was said."""
        for connection in wait(list(self.spoken), timeout_s):
            assert isinstance(connection, Connection)
            rank = self.spoken[connection]
            try:
                said: Said = pickle.loads(connection.recv_bytes())  # noqa: S301 - our own process, our own pickles
            except (EOFError, ConnectionResetError):
                said = Said(ending=Ending("lost", error=self.workers[rank].fate()))
            if said.ending is not None:
                del self.spoken[connection]
            yield rank, said

    def end(self) -> None:
        """Kill what is left; return when it is gone."""
        while self.workers:
            self.workers.pop().end()
        self.spoken.clear()


def spawn(place: Place) -> Worker:
    """Start a process that waits for its orders."""
    ours, theirs = Pipe()
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the worker has ended
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, int(place.cpus))),
        "PYTHONPATH": python_path(),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.processes", str(theirs.fileno())],
        env=environment,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    theirs.close()
    return Worker(process, ours, output)


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def own_devices(place: Place, rank: int, devices: Sequence[str] | None = None) -> list[str]:
    """Return the GPUs of one worker: whole ones of its own, or the one of which it has a share."""
    devices = visible_devices() if devices is None else devices
    if place.gpus >= 1:
        return list(devices[rank * int(place.gpus) : (rank + 1) * int(place.gpus)])
    per_device = int(1 / place.gpus) if place.gpus else 0
    return list(devices[rank // per_device : rank // per_device + 1]) if per_device else []


def main(descriptor: int) -> None:
    """Be a worker: take the orders, say what happens, leave when the run has ended or the driver is gone."""
    connection = Connection(descriptor)
    orders: Orders = pickle.loads(connection.recv_bytes())  # noqa: S301 - from the driver that started us
    threading.Thread(target=_end_with, args=[connection], daemon=True).start()
    try:
        share = Share(orders)
        said = Said()
        while said.ending is None:
            connection.send_bytes(pickle.dumps(said))
            said = share.advance(REPORT_EVERY_S)
        connection.send_bytes(pickle.dumps(said))
    except Exception as error:
        connection.send_bytes(pickle.dumps(Said(problem=portable(error))))


def _end_with(connection: Connection) -> None:
    """Wait until the driver's end is closed, then end this process and its children: nobody listens any more."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv_bytes()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
