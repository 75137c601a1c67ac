"""The views of a store as a sweep sees them: told what happens while it runs, completed when it ends.

MLflow, Optuna's study, TensorBoard's files and the report can all be rebuilt from the records (contract C2). A view
that is current is not touched, and its libraries are not imported: a sweep that finds everything done answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.base import Outcome
from orchestrator import report, tracking
from orchestrator.plan import Plan, Run
from orchestrator.report.search.terminal import TerminalSearch
from orchestrator.report.terminal import TerminalReport
from orchestrator.search import journal
from orchestrator.store import Store
from orchestrator.tensorboard import Board
from orchestrator.tracking.tracker import say
from trainables.base import Progress

PATIENCE_S = 60.0
"""The longest that the end of a sweep waits for a tracking server that answers, but slowly."""


@dataclass
class Views:
    """MLflow, the Optuna journal, the report and, if asked for, TensorBoard's files of one plan on one store.

    `folder` holds mlflow.db and optuna.journal; `command` is what the report names as the way to make it again, `sync`
    what brings the views up to date and does nothing else; `tell` hears of a tracking server that is lost or back.
    """

    plan: Plan
    store: Store
    folder: Path
    command: str = ""
    sync: str = ""
    tensorboard: bool = False
    tell: Callable[[str], None] = say
    tracker: tracking.Tracker = field(init=False)

    def __post_init__(self) -> None:
        self.tracker = tracking.Tracker(self.plan.study, self.store, views=self.folder, tell=self.tell)
        self.board = Board(self.plan.study, self.store) if self.tensorboard else None
        self.report_folder = report.report_folder(self.plan, self.store)

    # -- while the sweep runs ---------------------------------------------------------------------------

    def started(self, run: Run, attempt: int) -> None:
        """A run has begun."""
        self.tracker.started(run, attempt)
        if self.board is not None:
            self.board.started(run, attempt)

    def progressed(self, run: Run, progress: Progress) -> None:
        """A run has measured something."""
        self.tracker.progressed(run, progress)
        if self.board is not None:
            self.board.progressed(run, progress)

    def finished(self, outcome: Outcome) -> None:
        """A run has ended."""
        self.tracker.finished(outcome)
        if self.board is not None:
            self.board.finished(outcome)

    def record_trials(self) -> None:
        """Bring the Optuna journal up to date: a search tells it of every point."""
        if not journal.is_recorded(self.plan, self.store, views=self.folder):
            journal.record(self.plan, self.store, views=self.folder)

    # -- when it has ended ------------------------------------------------------------------------------

    def complete(self, *, look: bool = False) -> bool:
        """Bring every view up to date with the records; what is current stays as it is. Return whether all are.

        With `look` MLflow is looked at even if it has been told all, and waited for as long as it answers.
        """
        self.record_trials()
        self.write_report()
        if self.board is not None:
            self.board.complete(self.plan)
        if look or not tracking.is_synced(self.plan, self.store, views=self.folder, report=self.report_folder):
            self.tracker.sync(self.plan, report=self.report_folder)
        problem = self.tracker.close(patience_s=float("inf") if look else PATIENCE_S, command=self.sync)
        if problem:
            self.tell(problem)
        return problem is None

    def write_report(self) -> None:
        """Write tables and figures if the records behind them have changed."""
        if self.has_report() and not report.is_current(self.plan, self.store, self.report_folder):
            report.write(self.plan, self.store, self.report_folder, command=self.command)

    def has_report(self) -> bool:
        """Say whether there is anything to compare yet: a study with a comparison and one of its runs finished."""
        if self.plan.study.search is not None:
            return self._is_point_done()
        if self.plan.study.comparison is None:
            return False
        compared = self.plan.of_stage(self.plan.study.compared_stage)
        return any(run.purpose == "verdict" and self.store.is_finished(run.id) for run in compared)

    def _is_point_done(self) -> bool:
        """Say whether a point of a search has all its runs."""
        return any(all(map(self.store.is_finished, point.runs)) for point in self.plan.points)

    def report(self) -> TerminalReport | TerminalSearch | None:
        """Return what ends a sweep on the terminal, or None while there is nothing to compare."""
        is_search = self.plan.study.search is not None
        return report.terminal_table(self.report_folder, is_search=is_search) if self.has_report() else None

    def summary(self) -> dict[str, Any]:
        """Return what the report says, for a program to read."""
        return report.read(self.report_folder).model_dump(mode="json")
