"""Runs one after the other on this machine, without Ray: for tests, for debugging and for one small machine.

A run of one process is executed in this one, a gang in fresh ones.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.attempt import Execution, request_stop
from cluster.base import Job, Observer
from cluster.dispatch import Dispatch
from cluster.gang import Gang
from cluster.placement import is_gang, refuse_split_gpus
from cluster.processes import ProcessCrew, own_devices, visible_devices
from cluster.rooms import Demand
from orchestrator.errors import InfeasibleError
from orchestrator.plan import Run
from orchestrator.store import Store
from trainables.base import Place

ONE: Mapping[str, float] = {"run": 1}


class LocalBackend:
    """Executes the ready run with the longest remaining path, until none is left. See `cluster.base.Backend`."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.cache: dict[str, Any] = {}
        self._is_stopped = False
        self._current: Job | None = None

    def check(self, places: Mapping[str, Place]) -> None:
        """Raise InfeasibleError for a gang that asks for more GPUs than are here; one process serves every place."""
        for stage, place in places.items():
            refuse_split_gpus(stage, place)
            if is_gang(place) and len(own_devices(place, place.workers - 1)) < place.gpus:
                raise InfeasibleError(
                    f"{stage} asks for {place.workers} x {place.gpus:g} GPUs; this machine has "
                    f"{len(visible_devices())}. Make it fit with --place {stage}.gpus=0"
                )

    def slots(self, place: Place) -> int:
        """Return one: they run one after the other."""
        return 1

    def run(self, runs: Sequence[Run], store: Store, observer: Observer) -> None:
        """Execute `runs` (in dependency order); returns when all have ended or `stop` was called."""
        self.check({run.stage: run.place for run in runs})
        dispatch = Dispatch(runs, store, observer, {"here": ONE}, lambda _: Demand(ONE))
        dispatch.begin()
        while not self._is_stopped and (job := dispatch.next()) is not None:
            self._execute(job, dispatch)

    def stop(self) -> None:
        """Ask the running run to checkpoint and end; start nothing new. Safe in a signal handler."""
        self._is_stopped = True
        job = self._current
        if job is not None:
            request_stop(job.open_store(), job.run.id)

    def close(self) -> None:
        """Forget what runs have cached."""
        self.cache.clear()

    def _execute(self, job: Job, dispatch: Dispatch) -> None:
        execution = Gang(job, ProcessCrew()) if is_gang(job.run.place) else Execution(job, self.cache)
        self._current = job
        try:
            if self._is_stopped:  # asked for while the attempt was being opened
                self.stop()
            dispatch.started(job.run.id, execution.attempt.number, socket.gethostname())
            for progress in execution:
                dispatch.progressed(job.run.id, progress)
        finally:
            self._current = None
            execution.close()
        assert execution.outcome is not None
        dispatch.ended(execution.outcome)
