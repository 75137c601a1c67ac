"""`sweep`: run what is missing, then compare. The same command again resumes after anything, and adds what is new."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator.cli.options import (
    add_oversubscribe,
    add_store,
    add_study,
    add_tensorboard,
    console,
    make_search,
    open_store,
    sync_command,
    views_folder,
)

if TYPE_CHECKING:
    from cluster.base import Backend
    from orchestrator.plan import Plan
    from orchestrator.store import Store


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("sweep", help="run what is missing, then compare", description=__doc__)
    add_study(parser)
    add_store(parser)
    where = parser.add_argument_group("where it runs")
    where.add_argument("--local", action="store_true", help="in this process, one run after the other, without Ray")
    where.add_argument(
        "--address",
        metavar="ADDR",
        help="join a Ray cluster that runs, with its token, from one of its nodes: host:port, or auto for the only one "
        "on this machine (default: start one here that ends with the sweep)",
    )
    again = parser.add_argument_group("again")
    again.add_argument(
        "--redo",
        metavar="RUN",
        action="append",
        default=[],
        help="drop this run's record and make it again: an id, a unique part of its beginning, or a name",
    )
    again.add_argument("--retry", choices=["diverged"], help="make the diverged runs of this study again")
    again.add_argument("--wait", action="store_true", help="wait if another sweep uses the store, instead of leaving")
    add_oversubscribe(parser)
    parser.add_argument_group("what is shown").add_argument(
        "--plain", action="store_true", help="a line per event, as when piped or in CI, where there would be a screen"
    )
    add_tensorboard(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Execute the sweep; print the comparison on stdout."""
    from orchestrator import sweep
    from orchestrator.account import elapsed, stopped
    from orchestrator.advice import demonstration
    from orchestrator.cli.needs import limits_of
    from orchestrator.estimate import available_cpus
    from orchestrator.live.reporter import Reporter
    from orchestrator.live.screen import suits
    from orchestrator.search.asking import Asking
    from orchestrator.signals import STOPPED_BY
    from orchestrator.views import Views

    begun = time.monotonic()
    store = open_store(options)
    replan, ledger = make_search(options, store)
    plan = replan()
    command = shlex.join(["python", "-m", "orchestrator", *options.words])
    if line := demonstration(plan):
        say(line)
    folder = views_folder(options, store)
    slots = 1 if options.local else available_cpus()
    reporter = Reporter(store.root, slots, has_screen=suits(sys.stderr) and not options.plain)
    views = Views(plan, store, folder, command, sync_command(options), options.tensorboard, reporter.tell)
    code = sweep.run(
        plan,
        store,
        replan=replan,
        views=views,
        make_backend=lambda: make_backend(options, reporter.tell),
        command=command,
        wait=options.wait,
        forget=_to_forget(options, plan, store),
        limits=limits_of(
            plan,
            cpus=0 if options.local else available_cpus(),
            oversubscribe=options.oversubscribe,
            is_elsewhere=options.address is not None,
        ),
        reporter=reporter,
        asking=Asking(ledger, store, replan) if ledger else None,
        say=say,
    )
    table = views.report()
    if table is not None:
        table.show(console())
    seconds = time.monotonic() - begun
    is_stopped = code in STOPPED_BY.values()
    say(stopped(seconds, views.plan, store) if is_stopped else elapsed(seconds, store.root))
    return code


def make_backend(options: argparse.Namespace, tell: Callable[[str], None]) -> Backend:
    """Return the backend that the options name, which may `tell` lines; only here is Ray imported."""
    if options.local:
        from cluster.local import LocalBackend

        return LocalBackend()
    tell("starting workers" if options.address is None else f"joining the cluster at {options.address}")
    from cluster.tune import TuneBackend

    return TuneBackend(address=options.address, tell=tell)


def say(line: str) -> None:
    """Print one line of progress on stderr."""
    sys.stderr.write(f"{line}\n")


def _to_forget(options: argparse.Namespace, plan: Plan, store: Store) -> list[str]:
    from orchestrator.lookup import find_run

    chosen = [find_run(text, store, plan) for text in options.redo]
    if options.retry:
        records = store.records(run.id for run in plan.runs)
        chosen += [run_id for run_id, record in records.items() if record.status == options.retry]
    return chosen
