"""`status`: what is done, running and failed; works while a sweep runs, from another terminal."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from orchestrator.cli.options import add_json, add_store, add_study, console, make_plan, open_store, print_json
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.live import Live
    from orchestrator.store import Store

TUNED, ASKED = "once tuned", "once asked for"
"""Runs that wait for a selection, and those that wait for points of a search."""


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("status", help="what is done, running and failed", description=__doc__)
    add_study(parser, optional=True, why=": also counts its runs to come; not with --watch and --follow")
    add_store(parser)
    add_json(parser)
    live = parser.add_argument_group("while a sweep runs").add_mutually_exclusive_group()
    live.add_argument("--watch", action="store_true", help="the sweep's screen, until it ends; lines when piped")
    live.add_argument("--follow", metavar="RUN", help="a run's log as it grows: a name, an id or its unique beginning")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print counts per stage, the running runs and the failures; or watch the sweep, or follow a run."""
    from orchestrator.live import live

    store = open_store(options)
    if options.follow:
        return _follow(options, store)
    if options.watch:
        _watch(options, store)
    counts = _counts(options, store)
    running = live(store)
    failed = store.records(store.failed_ids())
    holder = store.holder()
    if options.json:
        print_json(
            {
                "driver": holder,
                "stages": counts,
                "running": [vars(item) for item in running],
                "failed": {run_id: record.error for run_id, record in failed.items()},
            }
        )
        return 0
    out = console()
    state = f"{store.root}: {'in use by ' + holder if holder else 'no sweep is running'}"
    out.print(state if store.root.is_dir() else f"no store at {store.root}", soft_wrap=True)
    for stage, count in counts.items():
        out.print(f"  {stage:<12} " + "  ".join(f"{number} {status}" for status, number in count.items()))
    for item in running:
        out.print(_line(item, is_driven=holder is not None))
    for run_id, record in failed.items():
        log = store.failures / run_id / str(record.provenance.attempt) / "log.txt"
        out.print(f"  {record.status} {record.name} ({run_id}): {record.error}; log: {log}", soft_wrap=True)
    return 0


def _follow(options: argparse.Namespace, store: Store) -> int:
    from orchestrator.live.follow import Follower, find

    _refuse_study(options, "--follow")
    return Follower(store, find(options.follow, store), lambda line: print(line, flush=True)).follow()


def _watch(options: argparse.Namespace, store: Store) -> None:
    from orchestrator.live.watch import watch

    _refuse_study(options, "--watch")
    if not store.root.is_dir():
        raise UserError(f"there is no store {store.root}; name the one that a sweep uses with --store DIR")
    watch(store)


def _refuse_study(options: argparse.Namespace, option: str) -> None:
    if options.study:
        raise UserError(f"{option} shows the sweep that uses the store, whatever its study: leave out {options.study}")
    if options.json:
        raise UserError(f"{option} and --json exclude each other")


def _counts(options: argparse.Namespace, store: Store) -> dict[str, dict[str, int]]:
    """Return, per stage, how many runs have each status; with a study also those that are still to run."""
    known = [*store.ids(), *store.failed_ids()]
    plan = make_plan(options, store) if options.study else None
    ids = known if plan is None else [run.id for run in plan.runs]
    records = store.records(ids)
    counts: dict[str, dict[str, int]] = {}
    for run_id in ids:
        of_stage = counts.setdefault(run_id.rpartition("-")[0], {})
        status = str(records[run_id].status) if run_id in records else "to run"
        of_stage[status] = of_stage.get(status, 0) + 1
    for run in () if plan is None else plan.expected:
        of_stage = counts.setdefault(run.stage, {})
        expected = ASKED if plan is not None and plan.study.search is not None else TUNED
        of_stage[expected] = of_stage.get(expected, 0) + 1
    return counts


def _line(item: Live, *, is_driven: bool) -> str:
    verb = "running" if is_driven else "cut off"
    loss = f"  loss {item.loss:.3f}" if item.loss is not None else ""
    age = time.time() - item.heard_at
    return f"  {verb} {item.run_id} step {item.step}/{item.total}{loss}  (heard {age:.0f} s ago)"
