"""One run of MLflow's: what it has, what still has to be sent to it, and the sending, each metric point once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.tracking.content import STATUSES, Point

BATCH = 1000
"""The most metrics that one call may carry."""


@dataclass
class Child:
    """A run of MLflow's, and what waits for it; whatever raises can be called again, and sends nothing twice.

    `logged` is what it has, as (metric, step); None: not known, so looked up before anything is sent. A request whose
    answer was lost may have been carried out, or be carried out later: it is sent again with the same times, and
    MLflow's table of metrics has (run, metric, step, time, value) for its key. `waiting` and `params` are still to be
    sent; `sealed` says from which record it was completed, if it was.
    """

    client: Any
    id: str
    status: str
    sealed: str = ""
    logged: set[tuple[str, int]] | None = None
    waiting: dict[tuple[str, int], Point] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    is_described: bool = False

    @classmethod
    def found(cls, client: Any, run: Any) -> Child:
        """Return the child that MLflow has."""
        tags = run.data.tags
        return cls(client, run.info.run_id, run.info.status, tags.get("record", ""), is_described=bool(run.data.params))

    def is_complete(self, seal: str) -> bool:
        """Say whether it has all of the record with this seal."""
        return self.sealed == seal and self.status != "RUNNING"

    def measure(self, points: Iterable[Point]) -> None:
        """Keep measurements until they are sent; the first value of a metric at a step stays."""
        for point in points:
            key = (point[0], point[3])
            if self.logged is None or key not in self.logged:
                self.waiting.setdefault(key, point)

    def send(self, tags: Mapping[str, str] | None = None) -> None:
        """Log what waits and the child lacks, then `tags`: MLflow writes the tags of a call after its metrics."""
        if self.logged is None:
            self.logged = set(self._logged()) if self.waiting else None
        new = [point for key, point in self.waiting.items() if key not in (self.logged or ())]
        while len(new) > BATCH:
            self._log(new[:BATCH])
            new = new[BATCH:]
        self._log(new, self.params, tags)
        if self.logged is not None:
            self.logged |= set(self.waiting)
        self.is_described = self.is_described or bool(self.params)
        self.waiting, self.params = {}, {}

    def reopen(self) -> None:
        """Say that it runs."""
        if self.status != "RUNNING":
            self.client.update_run(self.id, status="RUNNING")
            self.status = "RUNNING"

    def end(
        self, status: str, end_ms: int | None = None, *, seal: str = "", tags: Mapping[str, str] | None = None
    ) -> None:
        """Send what waits, and say how it ended: `status` is ours, `seal` the record that says so."""
        self.send({**(tags or {}), "status": status, "record": seal})
        ended = STATUSES.get(status, "KILLED")
        self.client.set_terminated(self.id, ended, end_ms)
        self.status, self.sealed = ended, seal

    def _log(
        self, points: Iterable[Point], params: Mapping[str, str] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self.client.log_batch(
            self.id,
            metrics=[Metric(*point) for point in points],
            params=[Param(name, value) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in (tags or {}).items()],
        )

    def _logged(self) -> Iterator[tuple[str, int]]:
        for name in self.client.get_run(self.id).data.metrics:
            for metric in self.client.get_metric_history(self.id, name):
                yield name, metric.step
