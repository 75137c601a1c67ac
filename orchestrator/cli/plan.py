"""`plan`: what would run, what is cached and why the rest is not; placement, memory, disk, and time.

Also whether the design can conclude. Exit code 2 if a run cannot fit the memory there is, unless --oversubscribe.
"""

from __future__ import annotations

import argparse
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
    from orchestrator.cli.planned import Planned

    store = open_store(options)
    found = Planned.of(make_plan(options, store), store, oversubscribe=options.oversubscribe)
    locked = _lock(found.plan, store) if options.lock else ""
    if options.json:
        print_json({**({"locked": locked} if locked else {}), **found.json()})
        return found.needs.answer()
    out = console()
    found.print(out, everything=options.all)
    if locked:
        out.print(f"ok     lock           {locked}")
    answer = found.needs.answer()
    found.print_warnings(out)
    return answer


def _lock(plan: Plan, store: Store) -> str:
    """Lock the design; say when and where."""
    from orchestrator import preregistration

    locked = preregistration.lock(plan, store)
    return f"{locked.when}: {preregistration.path_of(store, plan.study.name)}"
