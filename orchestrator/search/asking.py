"""A sweep's side of a search: it asks for points while there is room, and stops runs that have no prospect.

So many points are open at once that every slot has a run; with one slot each point is asked for when all that is known
is known. What is decided is written down before it is acted on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.attempt import request_prune
from cluster.notes import read_progress
from orchestrator.plan import Plan, Run
from orchestrator.record import Record
from orchestrator.search.ledger import Ledger
from orchestrator.search.points import HELD_OUT, Point, curve_of, points_of
from orchestrator.space import Search
from orchestrator.store import Store
from trainables.base import Progress

HOPELESS = 5
"""Points that may fail, with none that did not, before no more are asked for."""


@dataclass
class Asking:
    """Asks for the points of one search while a sweep runs; `slots` is how many of its runs fit at once."""

    ledger: Ledger
    store: Store
    replan: Callable[[], Plan]
    slots: int = 1
    ended: dict[str, Record] = field(default_factory=dict)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    groups: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """By run, what tells its rivals: the arm and the place among the point's replicates."""
    siblings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stopping: dict[str, str] = field(default_factory=dict)
    """Runs that are to end early, and why."""

    @property
    def search(self) -> Search:
        """What is searched."""
        return self.ledger.search

    def ask(self) -> Plan:
        """Ask for as many points as there is room for; return the plan with them."""
        while True:
            plan = self.replan()
            points = points_of(plan, self._records(plan))
            self._note(plan, points)
            if not self._asked_more(points):
                return plan

    def _asked_more(self, points: list[Point]) -> bool:
        from orchestrator.search.sampler import suggest

        room = self._room() - sum(point.state == "open" for point in points)
        count = min(room, self.search.points - len(points))
        if count > 0 and not is_hopeless(points):
            for _ in range(count):
                points.append(Point(suggest(self.search, points), "open"))
            self.ledger.write([point.asked for point in points])
            return True
        if points and not self.ledger.path.is_file():
            self.ledger.write([point.asked for point in points])
        return False

    def _room(self) -> int:
        """Return how many points are open at once; one more where a point's runs do not end together."""
        runs = max(1, math.prod(len(values) for values in self.ledger.planning.study.axes.values()))
        return math.ceil(self.slots / runs) + (1 if self.slots > 1 and runs > 1 else 0)

    def _records(self, plan: Plan) -> Mapping[str, Record]:
        """Return the records of the plan's runs; what has ended for good is read once."""
        fresh = self.store.records(run.id for run in plan.runs if run.id not in self.ended)
        self.ended |= {run_id: record for run_id, record in fresh.items() if record.status in ("done", "diverged")}
        return {**fresh, **{run.id: self.ended[run.id] for run in plan.runs if run.id in self.ended}}

    # -- stopping early ---------------------------------------------------------------------------------

    def _note(self, plan: Plan, points: list[Point]) -> None:
        """Note whose rivals are who, and how far each has come."""
        if self.search.prune is None:
            return
        for point in points:
            for place, run_id in enumerate(point.asked.runs):
                self.groups[run_id] = (point.at.get(self.search.arm or ""), place)
                self.siblings[run_id] = point.asked.runs
        for record in self._records(plan).values():
            if record.id in self.groups and record.id not in self.curves:
                self.curves[record.id] = curve_of(record)

    def started(self, run: Run, attempt: int) -> None:
        """A run has begun: it may have been given up already, or go on from where it was."""
        if run.id in self.stopping:
            request_prune(self.store, run.id, self.stopping[run.id])
        elif run.id in self.groups:
            rows = read_progress(self.store.work / run.id / str(attempt)).get("rows", [])
            measured = {int(row["step"]): row[HELD_OUT] for row in rows if HELD_OUT in row}
            self.curves[run.id] = {step: loss for step, loss in measured.items() if step > 0}

    def progressed(self, run: Run, progress: Progress) -> None:
        """A run has come to a step; if it has measured its held-out loss there it may have to end."""
        if run.id not in self.groups or HELD_OUT not in progress.metrics or progress.step == 0:
            return
        curve = self.curves.setdefault(run.id, {})
        curve[progress.step] = progress.metrics[HELD_OUT]
        if run.id not in self.stopping and (why := self._verdict(run, progress)):
            for sibling in self.siblings[run.id]:
                self.stopping[sibling] = why if sibling == run.id else f"{why}, by {run.name}"
                if not self.store.is_finished(sibling):
                    request_prune(self.store, sibling, self.stopping[sibling])

    def _verdict(self, run: Run, progress: Progress) -> str:
        """Return why a run should end now; nothing where it should not."""
        from orchestrator.search.pruning import should_prune

        rule, curve = self.search.prune, self.curves[run.id]
        assert rule is not None
        group = self.groups[run.id]
        rivals = [self.curves[other] for other in self.curves if other != run.id and self.groups.get(other) == group]
        if not should_prune(rule, curve, rivals, length=progress.total):
            return ""
        of_arm = f" of {group[0]}" if group[0] is not None else ""
        return f"{rule.rule} at step {progress.step} of {progress.total}, among {len(rivals) + 1} runs{of_arm}"


def is_hopeless(points: list[Point]) -> bool:
    """Say whether the first points have all failed, so that more of them would, too."""
    ended = [point for point in points if point.state != "open"]
    return len(ended) >= HOPELESS and all(point.state == "failed" for point in ended)
