"""Runs one after the other in this process, without Ray: for tests, for debugging and for one small machine."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.attempt import Execution, request_stop
from cluster.base import Job, Observer
from cluster.dispatch import Dispatch
from cluster.placement import refuse_gangs
from orchestrator.plan import Run
from orchestrator.store import Store
from trainables.base import Place

ONE: Mapping[str, float] = {"process": 1}


class LocalBackend:
    """Executes the ready run with the longest remaining path, until none is left. See `cluster.base.Backend`."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.cache: dict[str, Any] = {}
        self._is_stopped = False
        self._current: Job | None = None

    def check(self, places: Mapping[str, Place]) -> None:
        """Raise InfeasibleError for a run of several workers; one process serves every other place."""
        for stage, place in places.items():
            refuse_gangs(stage, place)

    def run(self, runs: Sequence[Run], store: Store, observer: Observer) -> None:
        """Execute `runs` (in dependency order); returns when all have ended or `stop` was called."""
        self.check({run.stage: run.place for run in runs})
        dispatch = Dispatch(runs, store, observer, {"here": ONE}, lambda _: ONE)
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
        execution = Execution(job, self.cache)
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
