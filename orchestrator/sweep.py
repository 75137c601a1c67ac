"""Run what a plan lacks: plan minus store, to a backend, into records; then the views.

Resuming is running the same command again (contract C3): nothing here knows whether an earlier sweep was cut. While
a setting is being selected the plan is made again whenever a choice can be made, and what is new joins the sweep.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cluster import leftovers
from cluster.base import Backend, Outcome
from orchestrator.account import failures, opening
from orchestrator.decisions import Decision, damaged_among, decide, to_run
from orchestrator.durable import is_full, no_space
from orchestrator.errors import UserError
from orchestrator.estimate import available_cpus, costed, critical_path_s, refuse_full_disk, seconds_by_stage
from orchestrator.live.reporter import Reporter
from orchestrator.memory import disk, fit
from orchestrator.outlook import blocked, made
from orchestrator.plan import Plan, Run
from orchestrator.record import FINAL
from orchestrator.signals import STOPPED_BY, listening
from orchestrator.store import Store
from trainables.base import InputError, Progress

if TYPE_CHECKING:
    from orchestrator.search.asking import Asking
    from orchestrator.views import Views


def check(plan: Plan, store: Store, again: Collection[str] = ()) -> None:
    """Raise InputError for whatever can be known to be wrong with the missing runs from what is there already.

    `again` are finished runs that will be made again: nothing is known from them.
    """
    seen = set()
    finished = {run.id for run in plan.runs if store.is_finished(run.id)} - set(again)
    for run in plan.runs:
        if run.id in finished:
            continue
        inputs = {role: source for role, source in run.inputs.items() if source in finished}
        key = (run.trainable, run.config.model_dump_json(), tuple(inputs.items()))
        if key not in seen:
            seen.add(key)
            run.find_trainable().check(run.config, {role: store.artefact(source) for role, source in inputs.items()})


@dataclass
class Sweep:
    """One execution of a plan's missing runs; also the observer that the backend talks to.

    `replan` plans again from the records there are by then; `asking` asks for the points of a search.
    """

    plan: Plan
    store: Store
    views: Views
    backend: Backend
    replan: Callable[[], Plan]
    reporter: Reporter
    limits: fit.Limits = fit.UNKNOWN
    asking: Asking | None = None
    missing: list[Run] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    tuned: set[str] = field(default_factory=set)
    outcomes: list[Outcome] = field(default_factory=list)
    has_begun: bool = False
    stopped_by: int | None = None

    def execute(self, decisions: Sequence[Decision]) -> int:
        """Run what is to be run; return the exit code."""
        self.seconds = seconds_by_stage(self.store, set(self.plan.study.stages))
        runs, expected = self._weighed(to_run(decisions))
        self.missing, self.known = runs, {run.id for run in self.plan.runs}
        self.preparing = {run.id for run in runs if run.find_trainable().prepares}
        memory = fit.estimate(self.plan.outlook, [*runs, *expected], self.store)
        refuse_full_disk(self.store.root, disk.gib_of(memory, available_cpus()))
        try:
            with listening(self._stop):
                self.backend.check({run.stage: run.place for run in [*runs, *expected]})
                self._make_room(runs)
                cached = Counter(item.run.stage for item in decisions if item.action == "cached")
                stages = {stage: cached[stage] for stage in self.plan.study.stages}
                with self.reporter.showing(self.plan.study.name, stages, runs, expected):
                    self.backend.run([*runs, *self._first_points()], self.store, self)
        finally:
            self.backend.close()
            self._plan_again()
        return self.exit_code()

    def exit_code(self) -> int:
        """Return 0 if all ran well, 1 if some failed or never could start, 128 + the signal that stopped the sweep."""
        if self.stopped_by is not None:
            return STOPPED_BY[self.stopped_by]
        well = ("done", "diverged") if self.asking is None else ("done", "diverged", "pruned", "skipped")
        bad = [outcome for outcome in self.outcomes if outcome.status not in well]
        return 1 if bad or self.plan.expected else 0

    def _weighed(self, runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
        """Return the runs with their costs, and so what is expected; a tuning run has all that behind it."""
        runs, expected = costed(runs, self.seconds), costed(self.plan.expected, self.seconds)
        behind_s = critical_path_s(expected)
        return [replace(run, behind_s=behind_s) if run.purpose == "tuning" else run for run in runs], expected

    def _make_room(self, runs: Iterable[Run]) -> None:
        for run in runs:
            if self.store.artefact(run.id).exists():  # damaged, or without its record
                self.store.forget(run.id)

    def _plan_again(self) -> None:
        if self.plan.selections or self.asking is not None:
            self.plan = self.views.plan = self.replan()

    def _first_points(self) -> list[Run]:
        """Return the runs of the points that there is room for from the start."""
        if self.asking is None:
            return []
        of_points = self.plan.outlook.of_stage(self.plan.study.compared_stage)
        self.asking.slots = self.backend.slots(of_points[0].place)
        return self._joining(self.asking.ask())

    # -- the observer -----------------------------------------------------------------------------------

    def started(self, run: Run, attempt: int, host: str) -> None:
        """A worker has begun this attempt."""
        self.has_begun = True
        self.reporter.started(run, attempt, host)
        self.views.started(run, attempt)
        if self.asking is not None:
            self.asking.started(run, attempt)

    def progressed(self, run: Run, progress: Progress) -> None:
        """The run has reached a step."""
        self.reporter.progressed(run, progress)
        if progress.metrics:
            self.views.progressed(run, progress)
        if self.asking is not None:
            self.asking.progressed(run, progress)

    def finished(self, outcome: Outcome) -> None:
        """The run has ended; once base model and data are there, all the rest is checked before it trains."""
        self.reporter.finished(outcome)
        self.outcomes.append(outcome)
        self.views.finished(outcome)
        if outcome.run.purpose == "tuning" and outcome.status in FINAL:
            self.tuned.add(outcome.run.id)
        if outcome.run.id in self.preparing:
            self.preparing.discard(outcome.run.id)
            if outcome.because.startswith(f"{InputError.__name__}: "):
                raise UserError(outcome.because.removeprefix(f"{InputError.__name__}: "))
            if not self.preparing:
                ahead = self.plan.outlook
                check(ahead, self.store)
                left = [run for run in [*self.missing, *self.plan.expected] if not self.store.is_finished(run.id)]
                fit.refuse(fit.estimate(ahead, left, self.store), self.limits)

    def planned(self) -> list[Run]:
        """Plan again if a choice can be made by now; return what is new and missing, checked as the others were."""
        if self.asking is not None:
            return self._joining(self.asking.ask())
        if not any(item.waiting and self.tuned.issuperset(item.waiting) for item in self.plan.open):
            return []
        return self._joining(self.replan())

    def _joining(self, plan: Plan) -> list[Run]:
        """Go on with this plan; return what is new in it and missing, checked as the others were."""
        before, self.plan = self.plan, plan
        self.views.plan = plan
        if self.asking is not None:
            self.views.record_trials()
        for line in made(before.selections, plan.selections):
            self.reporter.say(line)
        new = [run for run in self.plan.runs if run.id not in self.known]
        self.known |= {run.id for run in new}
        sources = dict.fromkeys(source for run in new for source in run.inputs.values() if source in before)
        part = Plan(self.plan.study, (*(before[source] for source in sources), *new))
        decisions = {item.run.id: item for item in decide(part, self.store)}
        check(part, self.store, damaged_among([*decisions.values()]))
        runs, expected = self._weighed([run for run in new if decisions[run.id].action == "run"])
        fit.refuse(fit.estimate(self.plan, runs, self.store), self.limits)
        self._make_room(runs)
        self.missing += runs
        self.reporter.add(runs, expected)
        return runs

    # -- signals ----------------------------------------------------------------------------------------

    def _stop(self, number: int) -> None:
        """Let every running run leave a checkpoint."""
        self.stopped_by = number
        self.reporter.stopping()
        self.backend.stop()


def run(
    plan: Plan,
    store: Store,
    *,
    replan: Callable[[], Plan],
    views: Views,
    make_backend: Callable[[], Backend],
    command: str,
    wait: bool = False,
    forget: Sequence[str] = (),
    limits: fit.Limits = fit.UNKNOWN,
    reporter: Reporter,
    asking: Asking | None = None,
    say: Callable[[str], None],
) -> int:
    """Execute what `plan` lacks in `store`, bring the views up to date, and return the exit code.

    `replan` plans again from the records there are by then, `asking` asks for the points of a search; `forget` names
    runs to make again. Nothing is created, and no Ray is started, where nothing is missing. Raises UserError for a run
    that cannot fit into the memory of its GPU or within `limits`.
    """
    decisions = decide(plan, store)
    check(plan, store, damaged_among(decisions))
    is_asking = asking is not None and bool(plan.expected)
    if not forget and not is_asking and not to_run(decisions):
        return _complete(plan, store, decisions, views=views, command=command, wait=wait, say=say)
    memory = fit.estimate(plan.outlook, [*to_run(decisions), *plan.expected], store)
    fit.refuse(memory, limits)
    lock = store.lock(command, wait=wait, waiting=lambda holder: say(f"waiting for {holder}"))
    with space(store), lock as former:
        leftovers.clear(store, former)
        for run_id in forget:
            store.forget(run_id)
        if asking is not None:
            plan = views.plan = asking.ask()
        elif plan.selections:
            plan = views.plan = replan()
        decisions = decide(plan, store)
        check(plan, store, damaged_among(decisions))
        notes = [f"memory: {warning}" for warning in fit.warnings(memory, limits)]
        for line in [*opening(plan, store, decisions), *notes]:
            say(line)
        sweep = Sweep(plan, store, views, make_backend(), replan, reporter, limits, asking)
        try:
            code = sweep.execute(decisions)
        finally:
            if sweep.has_begun or store.ids():  # a mistake found before leaves nothing behind
                views.complete()
            leftovers.clear(store, former)
    for line in [*failures(sweep.outcomes), *(blocked(sweep.plan) if sweep.stopped_by is None else [])]:
        say(line)
    return code


def _complete(
    plan: Plan,
    store: Store,
    decisions: Sequence[Decision],
    *,
    views: Views,
    command: str,
    wait: bool,
    say: Callable[[str], None],
) -> int:
    """Say that nothing can be executed, bring the views up to date, and return the exit code."""
    if store.was_cut():
        with store.lock(command, wait=wait) as former:
            leftovers.clear(store, former)
    for line in blocked(plan) or [f"all {len(plan.runs)} runs are in {store.root}: nothing to execute"]:
        say(line)
    views.complete()
    is_short = plan.study.search is None and any(item.action == "skipped" for item in decisions)
    return 1 if plan.expected or is_short else 0


@contextlib.contextmanager
def space(store: Store) -> Iterator[None]:
    """Turn what comes of a full disk, in records or in views, into the one line that it is."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise no_space(store.root) from None
        raise
