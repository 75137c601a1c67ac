"""What `plan` has to say of a plan, in its two forms: tables and lines for a reader, JSON for a program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from orchestrator.advice import Advice, advise
from orchestrator.cli.needs import Needs, limits_of
from orchestrator.decisions import Decision, changed_sources, damaged_among, decide, to_run
from orchestrator.estimate import Estimate, available_cpus, estimate
from orchestrator.outlook import expected_line
from orchestrator.plan import Plan, Run
from orchestrator.progress import duration
from orchestrator.selection import Selection
from orchestrator.store import Store
from orchestrator.sweep import check

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 12
"""Runs of a stage that are listed one by one; more of them only with --all."""


@dataclass(frozen=True)
class Planned:
    """A plan against a store: the decisions, what the missing runs cost and need, and the state of the design."""

    plan: Plan
    store: Store
    decisions: Sequence[Decision]
    cost: Estimate
    needs: Needs
    advice: Sequence[Advice]

    @classmethod
    def of(cls, plan: Plan, store: Store, *, oversubscribe: bool) -> Planned:
        """Look at a plan; raises InputError or UserError for what is known to be wrong with it."""
        decisions = decide(plan, store)
        check(plan.outlook, store, damaged_among(decisions))
        ahead = [*to_run(decisions), *plan.expected]
        cost = estimate(ahead, store, cpus=available_cpus())
        limits = limits_of(plan, cpus=available_cpus(), oversubscribe=oversubscribe)
        return cls(plan, store, decisions, cost, Needs.of(plan.outlook, ahead, store, limits), advise(plan))

    @property
    def ahead(self) -> list[Run]:
        """The runs that a sweep would execute: those that are missing, and those that wait for a selection."""
        return [*to_run(self.decisions), *self.plan.expected]

    def json(self) -> dict[str, Any]:
        """Return all of it for a program."""
        return {
            "runs": [_decision_as_json(item) for item in self.decisions],
            "expected": Counter(run.stage for run in self.plan.expected),
            "selections": [_selection_as_json(item) for item in self.plan.selections],
            "seconds": self.cost.seconds,
            "core_seconds": self.cost.core_seconds,
            "disk_gib": self.needs.disk_gib,
            "stages": self.needs.json(),
            "warnings": list(self.needs.warnings()),
            "advice": [{"topic": item.topic, "text": item.text, "is_ok": item.is_ok} for item in self.advice],
        }

    def print(self, out: Console, *, everything: bool) -> None:
        """Print it, but for the warnings, which come after the answer; `everything`: every run, however many."""
        plan = self.plan
        out.print(Text.assemble((plan.study.name, "bold"), f" at scale {plan.study.scale}: {plan.study.description}\n"))
        out.print(_table_of(self.decisions, everything=everything))
        self.needs.print(out)
        if len(plan.open) < len(plan.selections):
            out.print("\n" + "\n".join(map(str, plan.selections)))
        if plan.expected:
            out.print(f"\n{expected_line(plan, {run.id for run in to_run(self.decisions)})}")
        out.print(f"\n{self._total()}")
        for item in self.advice:
            out.print(line(item.topic, item.text, is_ok=item.is_ok))

    def print_warnings(self, out: Console) -> None:
        """Print what might not fit into memory, and which trainables' sources have changed."""
        for topic, warnings in (
            ("memory", self.needs.warnings()),
            ("source", changed_sources(self.plan, self.store)),
        ):
            for warning in warnings:
                out.print(line(topic, warning, is_ok=False))

    def _total(self) -> str:
        """Say how many runs are ahead, how long they take and what disk they take."""
        if not self.ahead:
            return f"all {len(self.decisions)} runs are in {self.store.root}"
        size = self.needs.disk_gib
        disk = "disk unknown" if size is None else f"at most {max(size, 0.1):.1f} GiB of disk"
        return f"{len(self.ahead)} runs: {_time(self.cost, self.ahead)}, {disk}"


def line(topic: str, text: str, *, is_ok: bool) -> Text:
    """Return a line on a topic: "ok" where all is well, else a note."""
    said = Text(f"{'ok' if is_ok else 'note':<6} {topic:<14} {text}")
    if not is_ok:
        said.stylize("yellow", 0, len("note"))
    return said


def _decision_as_json(item: Decision) -> dict[str, Any]:
    run = item.run
    return {"id": run.id, "name": run.name, "purpose": run.purpose, "action": item.action, "reason": item.reason}


def _selection_as_json(item: Selection) -> dict[str, Any]:
    """Return a selection for a program; the mean loss of a value that diverged is infinite, written null as unknown."""
    tried = [
        {"value": one.value, "runs": one.runs, "loss": one.mean if one.mean != float("inf") else None}
        for one in item.tried
    ]
    name = f"{item.stage}.{item.setting}"
    return {"setting": name, "of": dict(item.labels), "state": item.state, "value": item.value, "tried": tried}


def _table_of(decisions: Sequence[Decision], *, everything: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("run", "name", "", "reason"):
        table.add_column(title, no_wrap=title in ("run", ""), min_width=20 if title == "reason" else None)
    stages = dict.fromkeys(item.run.stage for item in decisions)
    for stage in stages:
        of_stage = [item for item in decisions if item.run.stage == stage]
        for item in of_stage if everything else of_stage[:SHOWN]:
            table.add_row(item.run.id, item.run.name, item.action, item.reason)
        if len(of_stage) > SHOWN and not everything:
            rest = of_stage[SHOWN:]
            running = sum(item.action == "run" for item in rest)
            table.add_row("...", f"{len(rest)} more", f"{running} run" if running else "cached", "see them with --all")
    return table


def _time(cost: Estimate, ahead: Sequence[Run]) -> str:
    """Say how long it takes; what is guessed without records is guessed for CPUs."""
    if not cost.from_records and any(run.place.gpus for run in ahead):
        return "how long they take is known once one of each stage has run"
    basis = "from earlier runs" if cost.from_records else "a rough guess: nothing has run yet"
    return f"about {duration(cost.seconds)} on {available_cpus()} CPUs ({basis})"
