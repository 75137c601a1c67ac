"""The points that a search has asked for, in order: decisions, kept in the store until the store goes.

A point is written down before any run of it is planned, so that a command that was killed goes on with the same ones.
Which file it is follows from all that a point's outcome depends on: another space, sampler or seed, or another setting
of any stage, is another search. A search without a file begins with the points of its space that are in the records
already, whoever asked for them: so it outlives its file, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.durable import explained, write_atomically
from orchestrator.errors import StoreError
from orchestrator.planning import Planning
from orchestrator.record import Record
from orchestrator.space import Asked, Search, Values
from orchestrator.store import RUN_ID, Store

FOLDER = "searches"


@dataclass
class Ledger:
    """The points of one search in one store; reads its file whenever it is asked, and writes it whole."""

    planning: Planning
    store: Store
    _known: dict[tuple[int, int], tuple[Asked, ...]] = field(default_factory=dict)

    @property
    def search(self) -> Search:
        """What is searched."""
        assert self.planning.study.search is not None
        return self.planning.study.search

    @cached_property
    def path(self) -> Path:
        """The file of this search, whether it exists or not."""
        study = self.planning.study
        middle = self.planning.judged(self.search.middle()).points[0].runs[0]
        about = (self.search.space, self.search.objectives, self.search.sampler, self.search.seed)
        digest = hashlib.sha256(repr((middle, *about)).encode()).hexdigest()[:12]
        return self.store.root / FOLDER / f"{study.name}-{study.scale}-{digest}.json"

    def asked(self) -> tuple[Asked, ...]:
        """Return the points in the order of asking; those found in the records where nothing was written down."""
        try:
            about = self.path.stat()
        except FileNotFoundError:
            return self._found
        state = (about.st_mtime_ns, about.st_size)
        if state not in self._known:
            self._known = {state: _read(self.path)}
        return self._known[state]

    def write(self, points: Sequence[Asked]) -> None:
        """Write down all points."""
        study = self.planning.study
        said = [{"number": one.number, "values": dict(one.values), "attrs": dict(one.attrs)} for one in points]
        space = {axis: str(of) for axis, of in self.search.space.items()}
        about = {"study": study.name, "scale": study.scale, "sampler": self.search.sampler, "seed": self.search.seed}
        with explained(f"cannot write to the store {self.store.root}"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps({**about, "space": space, "points": said}, indent=1))

    @cached_property
    def _found(self) -> tuple[Asked, ...]:
        """The points of the space that the records know, in the order in which their first runs began."""
        found = sorted(self._of_records(), key=lambda item: item[0])
        values = {tuple(sorted(values.items(), key=str)): values for _, values in reversed(found)}
        return tuple(Asked(number, one) for number, one in enumerate(reversed(values.values())))

    def _of_records(self) -> Iterator[tuple[str, Values]]:
        """Yield when a run began that a point of the space is judged by, and that point."""
        stage = self.planning.study.compared_stage
        ids = [*self.store.ids(), *self.store.failed_ids()]
        wanted = [run_id for run_id in ids if RUN_ID.fullmatch(run_id) and run_id.rpartition("-")[0] == stage]
        for record in self.store.records(wanted).values():
            values = _point_of(record, self.search)
            if values is not None and record.id in self.planning.judged(values).points[0].runs:
                yield record.provenance.started, values


def _point_of(record: Record, search: Search) -> dict[str, Any] | None:
    """Return the point that a record's labels say it is of, if they are one of the space."""
    values = {axis: record.labels[axis] for axis in search.space if axis in record.labels}
    return values if search.holds(values) else None


def _read(path: Path) -> tuple[Asked, ...]:
    try:
        points: list[Mapping[str, Any]] = json.loads(path.read_text())["points"]
        return tuple(Asked(int(one["number"]), dict(one["values"]), dict(one["attrs"])) for one in points)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(
            f"{path} is damaged: delete it, and the search goes on with the points that are in the records"
        ) from None
