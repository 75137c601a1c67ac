"""What a sweep says, in lines: before its first run what it will execute and why, in the end what has become of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.base import Outcome
from orchestrator.decisions import Action, Decision, changed_sources, to_run
from orchestrator.outlook import expected_line
from orchestrator.plan import Plan
from orchestrator.progress import duration
from orchestrator.store import Store

ACTIONS: tuple[Action, ...] = ("cached", "run", "skipped")


def opening(plan: Plan, store: Store, decisions: Sequence[Decision]) -> list[str]:
    """Return what a sweep says before its first run: what it will execute and why, and what to know of the rest."""
    waiting = expected_line(plan, {run.id for run in to_run(decisions)})
    expected = [waiting] if waiting else []
    return [*summary(decisions), *expected, *damages(decisions), *changed_sources(plan, store)]


def summary(decisions: Sequence[Decision]) -> list[str]:
    """Return a line per stage: how many runs are cached, how many will run, and the commonest reason."""
    lines = []
    stages = dict.fromkeys(item.run.stage for item in decisions)
    for stage in stages:
        of_stage = [item for item in decisions if item.run.stage == stage]
        counts = Counter(item.action for item in of_stage)
        reasons = Counter(item.reason for item in of_stage if item.action == "run").most_common(2)
        shown = "; ".join(reason if count == 1 else f"{reason} ({count})" for reason, count in reasons)
        numbers = "  ".join(f"{counts[action]:>4} {action}" for action in ACTIONS if counts[action])
        lines.append(f"{stage:<12} {numbers}  {shown}".rstrip())
    return lines


def damages(decisions: Sequence[Decision]) -> list[str]:
    """Return a line per damaged artefact."""
    return [f"{item.run.id} ({item.run.name}) {item.reason}; made again" for item in decisions if item.is_damaged]


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """Return one line per stage with failures: how many, the first of them, and its log."""
    lines = []
    by_stage: Mapping[str, list[Outcome]] = {outcome.run.stage: [] for outcome in outcomes}
    for outcome in outcomes:
        if outcome.status in ("failed", "oom", "killed"):
            by_stage[outcome.run.stage].append(outcome)
    for stage, bad in by_stage.items():
        if bad:
            first = bad[0]
            log = f"; log: {first.log}" if first.log else ""
            lines.append(
                f"{len(bad)} of the {stage} runs failed; first: {first.run.id} ({first.run.name}) {first.because}{log}"
            )
    return lines


def elapsed(seconds: float, store: Path) -> str:
    """Return the line that ends a sweep."""
    return f"{duration(seconds)}; everything is in {store}"


def stopped(seconds: float, plan: Plan, store: Store) -> str:
    """Return the line that ends a sweep that was stopped by a signal."""
    runs = plan.outlook.runs
    done = sum(store.is_finished(run.id) for run in runs)
    finished = f"{done} of {len(runs)} runs finished in {store.root}"
    return f"{duration(seconds)}; stopped with {finished}; the same command goes on"
