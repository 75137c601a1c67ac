"""Runs on Ray Tune: one experiment for the whole plan, no barrier between stages (contract C4).

Tune starts and watches actors; it decides nothing. Our searcher hands it a run when the schedule says that the run
should start now, so that Tune's own queue stays empty; what its workers report comes back through the same object.
A run whose worker is lost goes back to the schedule: Tune's own retry would queue it past our admission, and gives
up when a reused actor dies between two runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from cluster import placement
from cluster.base import Job, Observer, Outcome
from cluster.dispatch import Dispatch
from cluster.gang import WorkerLost
from cluster.leftovers import FOLDER, remove_tune_folders
from cluster.probe import Probe
from cluster.rooms import Resources
from cluster.session import Session, Signals
from cluster.worker import Parcel, Report, Worker
from orchestrator.durable import explained
from orchestrator.plan import Run
from orchestrator.store import Store
from trainables.base import Place

NOISE = re.compile(r"(Failure #|class_name|actor_id|pid|namespace|ip):? ")
"""Lines of Ray's report on a dead actor that say nothing about why it died."""

LOW_ON_MEMORY = re.compile(r"node running low on memory\.\s*Memory on (the node .*? limit)")
RESERVE = "say what the runs need with --place STAGE.memory_gib=N, and only as many run at once as fit"

READY = "go"
"""What the file is called, until it is to stop the workers, that lies ready beside the one that does."""

NODES_EVERY_S = 5.0
"""How often the nodes of the cluster are counted."""

WAIT_FOR_NODES_S = 300.0
"""How long a sweep with nothing left to do but runs for which nodes have gone waits for them to come back."""


class TuneBackend:
    """Executes runs on a Ray session of its own on this machine, or on the cluster at `address`.

    `num_cpus` and `num_gpus` are what a session of its own offers; None: what there is. `tell` is given lines for the
    user. See `cluster.base.Backend`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        num_cpus: int | None = None,
        num_gpus: int | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Remember where to run; Ray starts with the first `check` or `run`."""
        self.address, self.num_cpus, self.num_gpus, self.tell = address, num_cpus, num_gpus, tell
        self._session: Session | None = None
        self._is_stopped = False

    @property
    def session(self) -> Session:
        """The Ray session; starts it."""
        if self._session is None:
            self._session = Session(self.address, num_cpus=self.num_cpus, num_gpus=self.num_gpus)
        return self._session

    def check(self, places: Mapping[str, Place]) -> None:
        """Raise InfeasibleError, naming stage, what it asks and the way out, if no node can ever hold a run."""
        placement.check(places, self.session.nodes())

    def slots(self, place: Place) -> int:
        """Return how many runs of such a place the nodes hold at once, at least one."""
        return placement.slots(place, self.session.nodes())

    def run(self, runs: Sequence[Run], store: Store, observer: Observer) -> None:
        """Execute `runs` (in dependency order); returns when all have ended or `stop` was called."""
        if not runs or self._is_stopped:
            return
        self.check({run.stage: run.place for run in runs})
        with experiment_folder(store) as folder:
            probe = Probe(store.root, folder, self.session.trusted, self.tell)
            probe.refuse_others(self.session.nodes())
            nodes = Nodes(lambda: probe.usable(self.session.nodes()))
            dispatch = Dispatch(runs, store, observer, nodes.found, lambda run: placement.demand(run.place))
            dispatch.begin()
            driver = Driver(dispatch, nodes, folder / "stop", lambda: self._is_stopped)
            try:
                fit(driver, folder)
            finally:
                driver.raise_problem()

    def stop(self) -> None:
        """Ask the running runs to checkpoint and end; start nothing new. Safe in a signal handler."""
        self._is_stopped = True

    def close(self) -> None:
        """End the Ray session, if this backend started it."""
        if self._session is not None:
            self._session.close()
            self._session = None


class Nodes:
    """The nodes of the cluster, counted again every few seconds."""

    def __init__(self, count: Callable[[], Mapping[str, Resources]]) -> None:
        """Count them for the first time."""
        self.count = count
        self.found = count()
        self.counted_s = time.monotonic()
        self.missed_since_s: float | None = None

    def changed(self) -> bool:
        """Count again, if it is time to; say whether nodes have come or gone."""
        if time.monotonic() - self.counted_s < NODES_EVERY_S:
            return False
        before, self.found, self.counted_s = self.found, self.count(), time.monotonic()
        return before != self.found

    def wait_for(self, runs: Sequence[Run]) -> None:
        """Let time pass in which nodes for these runs may come; raises InfeasibleError in the end."""
        if not runs:
            self.missed_since_s = None
            return
        self.missed_since_s = self.missed_since_s or time.monotonic()
        if time.monotonic() - self.missed_since_s > WAIT_FOR_NODES_S:
            placement.check({run.stage: run.place for run in runs}, self.found)
        time.sleep(0.2)


class Driver:
    """What Tune's searcher and its callback share: which trial is which run, and whether to stop.

    Tune swallows, or turns into text, what its hooks raise. So an error, of the observer or of the store, is kept
    here, stops the sweep, and is raised when Tune has returned.
    """

    def __init__(self, dispatch: Dispatch, nodes: Nodes, halt: Path, stop_requested: Callable[[], bool]) -> None:
        """Take the sweep, where it runs, the file that stops its workers, and whether somebody wants that."""
        self.dispatch, self.nodes, self.halt, self.stop_requested = dispatch, nodes, halt, stop_requested
        self.jobs: dict[str, Job] = {}
        self.begun: set[str] = set()
        self.problem: BaseException | None = None
        self.is_stopping = False

    def offer(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the config of the run that should start now, None, or Tune's word for the end."""
        with self.guarded():
            self.look()
            job = None if self.is_stopping else self.dispatch.next()
            if job is not None:
                self.jobs[trial_id] = job
                return {"parcel": Parcel(job), "halt": str(self.halt)}
        return Searcher.FINISHED if self._is_over() else None

    def look(self) -> None:
        """Pass on a wish to stop to the workers, and nodes that have come or gone to the schedule."""
        if not self.is_stopping and (self.problem is not None or self.stop_requested()):
            self.is_stopping = True
            self.halt.with_name(READY).rename(self.halt)  # takes no space: the disk may be full
        if self.nodes.changed():
            self.dispatch.resize(self.nodes.found)

    def heard(self, trial_id: str, report: Report) -> None:
        """Tell the observer what a worker has reported."""
        if self.problem is not None:
            return
        with self.guarded():
            run = self.jobs[trial_id].run
            if report.attempt and trial_id not in self.begun:
                self.begun.add(trial_id)
                self.dispatch.started(run.id, report.attempt, report.host, report.nodes)
            for progress in report.progress:
                self.dispatch.progressed(run.id, progress)
            if report.problem is not None:
                raise report.problem
            if report.outcome is not None:
                self._ended(trial_id, report.outcome)
        report.progress, report.outcome = [], None  # Tune keeps every trial's last result for good

    def lost(self, trial_id: str, because: str) -> None:
        """Give a run whose worker is gone back to the schedule; a worker that cannot even start is our fault."""
        if self.problem is not None:
            return
        with self.guarded():
            if "creation task" in because:
                raise RuntimeError(because)
            self.dispatch.lost(self.jobs.pop(trial_id).run.id, because)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep what is raised within; the sweep stops at Tune's next turn."""
        try:
            yield
        except Exception as error:
            self.problem = self.problem or error

    def raise_problem(self) -> None:
        """Raise what has stopped the sweep, if anything has."""
        if self.problem is not None:
            raise self.problem

    def _is_over(self) -> bool:
        """Say whether nothing will start any more; while all that is left waits for nodes, it may."""
        stranded: list[Run] = []
        if not self.is_stopping and self.dispatch.is_exhausted:
            stranded = self.dispatch.stranded()
            with self.guarded():
                self.nodes.wait_for(stranded)
        return self.is_stopping or self.problem is not None or (self.dispatch.is_exhausted and not stranded)

    def _ended(self, trial_id: str, outcome: Outcome) -> None:
        run = self.jobs.pop(trial_id).run
        if trial_id in self.begun:
            self.dispatch.ended(Outcome(run, outcome.status, outcome.record, outcome.log, outcome.because))


class PlanSearcher(Searcher):  # type: ignore[misc]
    """Offers Tune one run at a time, when it should start."""

    def __init__(self, driver: Driver) -> None:
        """Speak for the driver."""
        super().__init__()
        self.driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next run's config."""
        return self.driver.offer(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: `Listener` hears of it with the reason."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the store is the truth (contract C3)."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class Listener(tune.Callback):  # type: ignore[misc]
    """Hears what Tune hears of its trials."""

    def __init__(self, driver: Driver) -> None:
        """Pass everything on to the driver."""
        self.driver = driver
        self.signals = Signals()

    def setup(self, **info: Any) -> None:
        """Take back the signals that Tune has just caught."""
        self.signals.restore()

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Look, several times a second, whether to stop."""
        self.driver.look()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Pass on a worker's report, the last one included: Tune asks for new runs only after this."""
        self.driver.heard(trial.trial_id, result["report"])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass on that a worker is lost."""
        self.driver.lost(trial.trial_id, _reason(trial))


class InOrder(FIFOScheduler):  # type: ignore[misc]
    """Tune's own order of starting, without its walk over all trials at every step."""

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Prefer none: Tune then starts what was offered, first come, first served."""


def fit(driver: Driver, folder: Path) -> None:
    """Run Tune until the driver says that it is over."""
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(sys.maxsize)  # what is offered fits, so nothing waits behind it
    tune.run(
        Worker,
        name="sweep",
        storage_path=str(folder),
        config={},
        num_samples=-1,
        search_alg=PlanSearcher(driver),
        scheduler=InOrder(),
        callbacks=[Listener(driver)],
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        reuse_actors=True,
        raise_on_failed_trial=False,
        trial_dirname_creator=lambda trial: trial.trial_id,
        verbose=0,
    )


@contextlib.contextmanager
def experiment_folder(store: Store) -> Iterator[Path]:
    """Give a folder for Tune's own files, for as long as it runs; what a killed driver left goes too."""
    with explained(f"cannot write to the store {store.root}"):
        store.work.mkdir(parents=True, exist_ok=True)
        remove_tune_folders(store)
        folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=store.work))
        (folder / READY).touch()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reason(trial: Trial) -> str:
    """Return what is known about a lost worker, in a line."""
    cause = getattr(trial.get_pickled_error(), "cause", None)
    if isinstance(cause, WorkerLost):
        return str(cause)
    with contextlib.suppress(OSError, TypeError):
        lines = Path(trial.error_file).read_text().splitlines()
        low = LOW_ON_MEMORY.search(" ".join(lines))
        if low:
            return f"worker lost: out of memory, ended by Ray's monitor when {' '.join(low[1].split())}; {RESERVE}"
        kept = [line.strip() for line in lines if line.strip() and not NOISE.match(line.strip())]
        return f"worker lost: {' '.join(kept)[:400]}"
    return "worker lost"
