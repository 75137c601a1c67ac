"""`plan`: what would run, what is cached and why the rest is not; placement, memory, disk, and time.

Also whether the design can conclude. Exit code 2 if a run cannot fit the memory there is, unless --oversubscribe.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
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
    from orchestrator.plan import Plan
    from orchestrator.store import Store


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
    """Print the decisions, their cost and the state of the design; touch nothing but the lock that is asked for."""
    from orchestrator.cli.planned import Planned, line

    store = open_store(options)
    found = Planned.of(make_plan(options, store), store, oversubscribe=options.oversubscribe)
    locked = _lock(found.plan, store) if options.lock else _compared(found.plan, store)
    if options.json:
        said = {"locked" if options.lock else "lock": locked.text, "is_as_locked": locked.is_same} if locked else {}
        print_json({**said, **found.json()})
        return found.needs.answer()
    out = console()
    found.print(out, everything=options.all)
    if locked:
        out.print(line("lock", locked.text, is_ok=locked.is_ok))
    answer = found.needs.answer()
    found.print_warnings(out)
    return answer


@dataclass(frozen=True)
class Lock:
    """What is said of the lock; `is_ok` if this is the design that was locked, and before any result."""

    text: str
    is_same: bool
    is_ok: bool


def _lock(plan: Plan, store: Store) -> Lock:
    """Lock the design; say when and where."""
    from orchestrator import preregistration

    locked = preregistration.lock(plan, store)
    return Lock(f"{locked.when}: {preregistration.path_of(store, plan.study.name)}", True, not locked.finished)


def _compared(plan: Plan, store: Store) -> Lock | None:
    """Say whether this is the design that was locked, and what differs; None where none was."""
    from orchestrator import preregistration

    found = preregistration.compared(plan, store)
    if found is None:
        return None
    locked, changes = found
    if not changes:
        return Lock(f"as {locked.when}", True, not locked.finished)
    return Lock(f"differs in {'; '.join(changes)} ({locked.when}); the report lists what differs", False, False)
