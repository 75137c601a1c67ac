"""A worker: a Ray actor that executes one run after the other and stays warm in between, or drives one gang at a time.

What travels is small and plain. To the worker: a `Parcel`, the pickled job. Back: a `Report` every so often, with
every step since the last one, so that fast steps cost nothing and no measurement is lost.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune

from cluster.actors import ActorCrew
from cluster.attempt import Execution
from cluster.base import Job, Outcome
from cluster.gang import Gang, WorkerLost
from cluster.placement import factory, is_gang
from cluster.share import hide_gpus, portable
from orchestrator.errors import StoreError
from trainables.base import Progress

REPORT_EVERY_S = 0.15


class Parcel:
    """A job on its way to a worker. Tune copies, prints and stores the configs it is given; this makes that cheap."""

    def __init__(self, job: Job) -> None:
        """Pack a job."""
        self.run_id, self.place, self.data = job.run.id, job.run.place, pickle.dumps(job)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parcel:
        return self

    def __repr__(self) -> str:
        return self.run_id

    def open(self) -> Job:
        """Return the job; imports the module of its trainable."""
        job: Job = pickle.loads(self.data)  # noqa: S301 - packed by our own driver, carried by Ray's own pickles
        return job


@dataclass
class Report:
    """What a worker says: where the run is, the steps since the last report, how the run ended, or what broke."""

    attempt: int
    host: str
    nodes: tuple[str, ...]
    progress: list[Progress] = field(default_factory=list)
    outcome: Outcome | None = None
    problem: Exception | None = None


class Worker(tune.Trainable):  # type: ignore[misc]
    """Tune's view of a worker: `setup` makes it, `reset_config` gives it the next run, `step` advances that run.

    Tune's config is {"parcel": Parcel, "halt": path}; once the file `halt` exists nothing is begun and what runs is
    asked to stop.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return the run's own resources; workers are reused among runs that ask for the same."""
        return factory(config["parcel"].place)

    def setup(self, config: dict[str, Any]) -> None:
        """Become a worker, cold."""
        self.warm: dict[str, Any] = {}
        self.node = ray.get_runtime_context().get_node_id()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next run; it begins with the next step."""
        self.parcel, self.halt = new_config["parcel"], Path(new_config["halt"])
        self.execution: Execution | Gang | None = None
        self.nodes: tuple[str, ...] = (self.node,)
        self.config: dict[str, Any] = {}  # Tune sends it back with every result
        return True

    def step(self) -> dict[str, Any]:
        """Begin the run, or advance it for a fraction of a second, at least by one step.

        Raises WorkerLost for a gang that has lost a worker: so Tune ends this driver, and with it the group of theirs.
        """
        report = Report(0, socket.gethostname(), self.nodes)
        try:
            self._advance(report)
        except Exception as error:
            report.problem = portable(error)
        if report.outcome is not None and report.outcome.status == "lost":
            if not report.progress:
                raise WorkerLost(report.outcome.because)
            report.outcome = None  # first what was measured, then, at the next step, that it is over
        return {"report": report, "done": report.outcome is not None or report.problem is not None}

    def cleanup(self) -> None:
        """Abandon what runs."""
        if self.execution is not None:
            self.execution.close()

    def _advance(self, report: Report) -> None:
        if self.execution is None:
            job = self.parcel.open()
            if not self.halt.parent.is_dir():  # a node that nobody has asked, or whose mount has gone since
                raise StoreError(
                    f"node {report.host} does not see the store {job.store}: mount it there, or leave it out"
                )
            if self.halt.exists():
                report.outcome = Outcome(job.run, "stopped")
                return
            self.execution = self._begin(job)
            report.nodes = self.nodes
        else:
            until = time.monotonic() + REPORT_EVERY_S
            while (progress := next(self.execution, None)) is not None:
                report.progress.append(progress)
                if time.monotonic() >= until:
                    break
        report.attempt, report.outcome = self.execution.attempt.number, self.execution.outcome

    def _begin(self, job: Job) -> Execution | Gang:
        place = job.run.place
        if is_gang(place):
            os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # its driver computes nothing
            crew = ActorCrew()
            self.nodes = crew.nodes()
            return Gang(job, crew, self.halt)
        hide_gpus(place)
        return Execution(job, self.warm, self.halt)
