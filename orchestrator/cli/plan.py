"""`plan`: what would run, what is cached and why the rest is not; placement, memory, disk, and time.

Also whether the design can conclude. Exit code 2 if a run cannot fit the memory there is, unless --oversubscribe.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.cli.options import (
    add_json,
    add_oversubscribe,
    add_store,
    add_study,
    console,
    make_plan,
    open_store,
    print_json,
)

if TYPE_CHECKING:
    from orchestrator.cli.needs import Needs
    from orchestrator.decisions import Decision
    from orchestrator.estimate import Estimate
    from orchestrator.plan import Plan, Run
    from orchestrator.selection import Selection
    from orchestrator.store import Store

SHOWN = 12
"""Runs of a stage that are listed one by one; more of them only with --all."""


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("plan", help="what a sweep would run, and why; runs nothing", description=__doc__)
    add_study(parser)
    add_store(parser)
    add_json(parser)
    add_oversubscribe(parser)
    parser.add_argument(
        "--lock",
        action="store_true",
        help="write the design into the store before data exist; the report names deviations",
    )
    parser.add_argument("--all", action="store_true", help="list every run, however many")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the decisions, their cost and the state of the design; touch nothing."""
    from orchestrator.advice import advise
    from orchestrator.cli.needs import Needs, limits_of
    from orchestrator.decisions import changed_sources, decide
    from orchestrator.estimate import available_cpus, estimate
    from orchestrator.outlook import expected_line
    from orchestrator.sweep import check, damaged_among

    store = open_store(options)
    plan = make_plan(options, store)
    decisions = decide(plan, store)
    check(plan.outlook, store, damaged_among(decisions))
    missing = [item.run for item in decisions if item.action == "run"]
    ahead = [*missing, *plan.expected]
    cost = estimate(ahead, store, cpus=available_cpus())
    limits = limits_of(plan, cpus=available_cpus(), oversubscribe=options.oversubscribe)
    needs = Needs.of(plan.outlook, ahead, store, limits)
    advice = advise(plan)
    locked = _lock(plan, store) if options.lock else ""
    if options.json:
        print_json(
            {
                **({"locked": locked} if locked else {}),
                "runs": [
                    {
                        "id": item.run.id,
                        "name": item.run.name,
                        "purpose": item.run.purpose,
                        "action": item.action,
                        "reason": item.reason,
                    }
                    for item in decisions
                ],
                "expected": Counter(run.stage for run in plan.expected),
                "selections": [_as_json(item) for item in plan.selections],
                "seconds": cost.seconds,
                "core_seconds": cost.core_seconds,
                "disk_gib": needs.disk_gib,
                "stages": needs.json(),
                "warnings": list(needs.warnings()),
                "advice": [{"topic": item.topic, "text": item.text, "is_ok": item.is_ok} for item in advice],
            }
        )
        return needs.answer()
    out = console()
    out.print(f"[bold]{plan.study.name}[/bold] at scale {plan.study.scale}: {plan.study.description}\n")
    _print_decisions(decisions, everything=options.all)
    needs.print(out)
    if len(plan.open) < len(plan.selections):
        out.print("\n" + "\n".join(map(str, plan.selections)))
    if plan.expected:
        out.print(f"\n{expected_line(plan, {run.id for run in missing})}")
    if ahead:
        out.print(f"\n{len(ahead)} runs: {_time(cost, ahead)}, {_disk(needs)}")
    else:
        out.print(f"\nall {len(decisions)} runs are in {store.root}")
    for item in [*advice]:
        out.print(f"{'ok' if item.is_ok else '[yellow]note[/yellow]':<6} {item.topic:<14} {item.text}")
    if locked:
        out.print(f"ok     lock           {locked}")
    answer = needs.answer()
    for warning in needs.warnings():
        out.print(f"[yellow]note[/yellow]   memory         {warning}")
    for warning in changed_sources(plan, store):
        out.print(f"[yellow]note[/yellow]   source         {warning}")
    return answer


def _lock(plan: Plan, store: Store) -> str:
    """Lock the design; say when and where."""
    from orchestrator import preregistration

    locked = preregistration.lock(plan, store)
    return f"{locked.when}: {preregistration.path_of(store, plan.study.name)}"


def _time(cost: Estimate, missing: Sequence[Run]) -> str:
    """Say how long it takes; what is guessed without records is guessed for CPUs."""
    from orchestrator.estimate import available_cpus
    from orchestrator.progress import duration

    if not cost.from_records and any(run.place.gpus for run in missing):
        return "how long they take is known once one of each stage has run"
    basis = "from earlier runs" if cost.from_records else "a rough guess: nothing has run yet"
    return f"about {duration(cost.seconds)} on {available_cpus()} CPUs ({basis})"


def _as_json(item: Selection) -> dict[str, Any]:
    """Return a selection for a program; the mean loss of a value that diverged is infinite, written null as unknown."""
    tried = [
        {"value": one.value, "runs": one.runs, "loss": one.mean if one.mean != float("inf") else None}
        for one in item.tried
    ]
    name = f"{item.stage}.{item.setting}"
    return {"setting": name, "of": dict(item.labels), "state": item.state, "value": item.value, "tried": tried}


def _disk(needs: Needs) -> str:
    if needs.disk_gib is None:
        return "disk unknown"
    return f"at most {max(needs.disk_gib, 0.1):.1f} GiB of disk"


def _print_decisions(decisions: Sequence[Decision], *, everything: bool) -> None:
    from rich.table import Table

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
    console().print(table)
