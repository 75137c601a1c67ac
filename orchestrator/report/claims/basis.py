"""What the claims of a report are made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from orchestrator import statistics
from orchestrator.plan import Plan
from orchestrator.record import Record
from orchestrator.report.differences import Judged
from orchestrator.report.family import Family, Pairing
from orchestrator.report.summary import Line
from orchestrator.store import Store
from trainables.base import Scalar


@dataclass(frozen=True)
class Basis:
    """A study's plan, store and records, its comparisons as judged, and the lines of its comparison table."""

    plan: Plan
    store: Store
    records: Mapping[str, Record]
    family: Family
    judged: Judged
    lines: Sequence[Line]

    def line(self, kind: str, group: Mapping[str, Scalar] | None = None, label: str = "") -> Line | None:
        """Return the line of one kind (base, teacher, untrained, arm) in a group; None if there is none."""
        wanted = {} if group is None else dict(group)
        fits = (line for line in self.lines if line.kind == kind and line.group == wanted)
        return next((line for line in fits if label in ("", line.label)), None)

    def done(self, stage: str) -> list[Record]:
        """Return the finished records of one stage, in plan order; tuning runs are left out."""
        tuned = set(self.family.tuning["run_id"])
        runs = [run.id for run in self.plan.of_stage(stage) if run.id not in tuned]
        found = [self.records[run_id] for run_id in runs if run_id in self.records]
        return [record for record in found if record.status == "done"]

    @property
    def ranks(self) -> list[int]:
        """The study's ranks, in order."""
        groups = [group for group, _ in self.family.cells()]
        return sorted({int(group["rank"]) for group in groups if isinstance(group.get("rank"), int | float)})  # type: ignore[arg-type]

    def cells(self, arm: str) -> Iterator[tuple[dict[str, Scalar], pd.DataFrame]]:
        """Yield every group with the rows of one arm."""
        for group, rows in self.family.cells():
            yield group, self.family.rows_of(arm, rows)

    def against(self, arm: str, column: str) -> list[tuple[dict[str, Scalar], Test]]:
        """Return the paired test of one arm against the baseline by group, p adjusted over the groups."""
        found = [(group, self.family.compared(arm, rows, column)) for group, rows in self.family.cells()]
        if not found:
            return []
        return tests([(group, pairing.found.differences) for group, pairing in found])

    def from_teacher(self, arm: str) -> list[tuple[dict[str, Scalar], Pairing]]:
        """Return student - teacher in the primary outcome by group and replicate, for one arm."""
        metric, found = self.family.comparison.metric, []
        for group, rows in self.cells(arm):
            if metric in rows:
                theirs = [self.family.reference("teacher", row) for _, row in rows.iterrows()]
                mine = rows.assign(_teacher=pd.Series(theirs, index=rows.index, dtype="float64"))
                found.append((group, self.family.pair(mine, mine, metric, "_teacher")))
        return found

    def reads_teacher(self, arm: str) -> bool:
        """Say whether the runs of an arm need a teacher, directly or through its export."""
        fed = self.plan.dependants(run.id for run in self.plan.of_stage("teacher"))
        return any(run_id in fed for run_id in self.family.rows_of(arm, self.family.rows)["run_id"])

    def before(self, run_id: str) -> frozenset[str]:
        """Return the finished runs that a run needs, directly or not, but for what fetches base model and data."""
        if run_id not in self._before:
            needed = [self.plan[id_] for id_ in self.plan[run_id].inputs.values() if id_ in self.records]
            own = [run.id for run in needed if not run.find_trainable().prepares]
            self._before[run_id] = frozenset(own).union(*(self.before(id_) for id_ in own))
        return self._before[run_id]

    @cached_property
    def _before(self) -> dict[str, frozenset[str]]:
        return {}

    def exports(self) -> list[Record]:
        """Return the finished exports, the largest rank first."""
        found = self.done("svd_export")
        return sorted(found, key=lambda record: -float(record.settings.get("rank") or 0))


@dataclass(frozen=True)
class Test:
    """A paired test beside the primary one, its p adjusted over the groups of one question."""

    __test__ = False
    paired: statistics.Paired
    p_adjusted: float | None

    @property
    def n(self) -> int:
        """The number of replicates."""
        return self.paired.estimate.n


def tests(cases: Sequence[tuple[dict[str, Scalar], Mapping[Any, float]]]) -> list[tuple[dict[str, Scalar], Test]]:
    """Return the sign-flip test of each case's differences, p adjusted over the cases as a family."""
    adjusted = statistics.adjust([differences for _, differences in cases])
    return [
        (group, Test(statistics.sign_flip(list(differences.values())), p))
        for (group, differences), p in zip(cases, adjusted.p, strict=True)
    ]


def number(value: Any) -> float | None:
    """Return a metric as a float; None for what is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
