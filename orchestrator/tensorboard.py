"""Records and live metrics as TensorBoard's event files: a view of the store, one folder per run with a readable name.

    tensorboard --logdir runs/tensorboard/rank_study

Metrics have the names and the steps that they have in MLflow, a student's test metrics among them. A run's file grows
while it runs; what it lacks in the end comes from the record. A run that resumed, or was found finished, is written
from its record alone. The runs that are compared are in the tab HPARAMS, too, with params and outcomes. The files are
written by tensorboardX, which Ray Tune brings along, so that only who looks at them needs TensorBoard itself.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.freshness import read_marker, write_marker
from orchestrator.plan import Plan, Run
from orchestrator.results import test_metrics
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.tracking.content import (
    Point,
    clean_params,
    live_points,
    ms,
    now_ms,
    record_points,
    seal_of,
    summary_points,
)
from trainables.base import Progress, Scalar

if TYPE_CHECKING:
    from cluster.base import Outcome

OUTCOMES = ("test_loss", "final_eval_loss", "best_eval_loss")
"""Of a run's numbers those that the tab HPARAMS shows; the study's own outcome comes first."""

COLUMNS = "columns"
"""In the marker in a run id's stead: what the tab HPARAMS was told to show."""


class Board:
    """The event files of one study. Nothing is imported or created before there is something to write.

    `places` are the folders of the runs, `seals` the records that they were completed from, both by run id.
    """

    def __init__(self, study: Study, store: Store) -> None:
        """Name the study and its store."""
        self.study, self.store, self.folder = study, store, store.root / "tensorboard" / study.name
        self._marker = store.root / "tracked" / f"{study.name}-tensorboard.json"
        known = {run_id: told.partition(": ") for run_id, told in read_marker(self._marker).items()}
        self.places = {run_id: place for run_id, (place, _, _) in known.items()}
        self.seals = {run_id: seal for run_id, (_, _, seal) in known.items()}
        self._files: dict[str, _File] = {}

    def started(self, run: Run, attempt: int = 1) -> None:
        """A run has begun; the file of an attempt that resumes lacks what came before."""
        self._incomplete([run.id])
        self._files[run.id] = self._emptied(run, is_whole=attempt == 1)

    def progressed(self, run: Run, progress: Progress) -> None:
        """A run has measured something at a step."""
        if run.id not in self._files:
            self.started(run, 2)
        self._files[run.id].write(live_points(progress, now_ms()))

    def finished(self, outcome: Outcome) -> None:
        """A run has ended; one without a record was stopped, and will go on."""
        file = self._files.pop(outcome.run.id, None)
        if file is None:
            return
        if outcome.record is not None and file.is_whole:
            file.write(record_points(outcome.record))
            self.seals[outcome.run.id] = seal_of(outcome.record)
        file.close()

    def complete(self, plan: Plan) -> None:
        """Write what the files lack of the plan's records, and which params and outcomes the tab HPARAMS has."""
        records = self.store.records(run.id for run in plan.runs)
        tested = test_metrics(plan, records)
        lacking: dict[str, tuple[str, list[Point]]] = {}
        for run_id, record in records.items():
            outcomes = summary_points(tested.get(run_id, {}), ms(record.provenance.finished))
            seal = " ".join([seal_of(record), *(f"{name}={value!r}" for name, value, _, _ in outcomes)])
            if self.seals.get(run_id) != seal or not self._folder(plan[run_id]).is_dir():
                lacking[run_id] = seal, outcomes
        self._incomplete(lacking)
        for run_id, (seal, outcomes) in lacking.items():
            file = self._emptied(plan[run_id], is_whole=True)
            file.write([*record_points(records[run_id]), *outcomes])
            file.close()
            self.seals[run_id] = seal
        self._say_what_is_compared(plan.of_stage(self.study.compared_stage))
        self._mark()

    def _incomplete(self, run_ids: Iterable[str]) -> None:
        """Note of files, before they are emptied, that they are not complete: this process may be killed by then."""
        known = [run_id for run_id in run_ids if self.seals.get(run_id)]
        self.seals |= dict.fromkeys(known, "")
        if known:
            self._mark()

    def _mark(self) -> None:
        told = {run_id: f"{place}: {self.seals.get(run_id, '')}" for run_id, place in self.places.items()}
        write_marker(self._marker, told)

    def _say_what_is_compared(self, runs: Iterable[Run]) -> None:
        """Write the file from which the tab HPARAMS knows its columns: what varies, and the outcomes."""
        seen: dict[str, set[Scalar]] = {}
        for run in runs:
            for name, value in self._params(run).items():
                seen.setdefault(name, set()).add(value)
        varied = {name: values for name, values in seen.items() if len(values) > 1} or seen
        params = {name: min(varied[name], key=str) for name in sorted(varied)}
        metric = self.study.comparison.metric if self.study.comparison else OUTCOMES[0]
        columns = json.dumps([list(params), metric])
        if not params or (self.seals.get(COLUMNS) == columns and any(self.folder.glob("*tfevents*"))):
            return
        for path in self.folder.glob("*tfevents*"):
            path.unlink()
        file = _File(self.folder, is_whole=True)
        file.define(params, dict.fromkeys((metric, *OUTCOMES)))
        file.close()
        self.places[COLUMNS], self.seals[COLUMNS] = ".", columns

    def _params(self, run: Run) -> dict[str, Scalar]:
        return {name: _number(value) for name, value in clean_params(self.study, run).items()}

    def _emptied(self, run: Run, *, is_whole: bool) -> _File:
        """Return a new file for a run, in its empty folder."""
        self.seals[run.id] = ""
        folder = self._folder(run)
        shutil.rmtree(folder, ignore_errors=True)
        file = _File(folder, is_whole)
        if run.stage == self.study.compared_stage:
            file.describe(self._params(run))
        return file

    def _folder(self, run: Run) -> Path:
        """Return a run's folder: its name, with its id where another run has that name already."""
        if run.id not in self.places:
            name = re.sub(r"[^A-Za-z0-9_.=-]+", "-", run.name or run.id)
            taken = name in self.places.values()
            self.places[run.id] = f"{name}.{run.id.rpartition('-')[2]}" if taken else name
        return self.folder / self.places[run.id]


class _File:
    """One run's event file; a metric is written once a step, the first value stays."""

    def __init__(self, folder: Path, is_whole: bool) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.is_whole = is_whole
        self.written: set[tuple[str, int]] = set()
        self.events = EventsWriter(str(folder / "events"))

    def describe(self, params: Mapping[str, Scalar]) -> None:
        """Say by which params the run is found in the tab HPARAMS."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import hparams

        _, start, _ = hparams(params, {})
        self.events.write_event(Event(wall_time=time.time(), summary=start))

    def define(self, params: Mapping[str, Scalar], metrics: Mapping[str, object]) -> None:
        """Say which params and metrics the tab HPARAMS shows of all runs."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import hparams

        everything, _, _ = hparams(params, metrics)
        self.events.write_event(Event(wall_time=time.time(), summary=everything))

    def write(self, points: Iterable[Point]) -> None:
        """Append what is not there yet."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value, time_ms, step in points:
            if (name, step) not in self.written:
                self.written.add((name, step))
                self.events.write_event(Event(wall_time=time_ms / 1000, step=step, summary=scalar(name, value)))
        self.events.flush()

    def close(self) -> None:
        """Write out what is left."""
        self.events.close()


def _number(text: str) -> Scalar:
    """Return the number that a param says, else the param: TensorBoard sorts and scales numbers."""
    try:
        return float(text)
    except ValueError:
        return text
