"""`status`: what is done, running and failed; works while a sweep runs, from another terminal."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from orchestrator.cli.options import add_json, add_store, add_study, console, make_plan, open_store, print_json

if TYPE_CHECKING:
    from orchestrator.live import Live
    from orchestrator.store import Store

EXPECTED = "once tuned"
"""Runs that wait for a selection."""


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("status", help="what is done, running and failed", description=__doc__)
    add_study(parser, optional=True)
    add_store(parser)
    add_json(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print counts per stage, the running runs and the failures."""
    from orchestrator.live import live

    store = open_store(options)
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
    out.print(f"{store.root}: {'in use by ' + holder if holder else 'no sweep is running'}")
    for stage, count in counts.items():
        out.print(f"  {stage:<12} " + "  ".join(f"{number} {status}" for status, number in count.items()))
    for item in running:
        out.print(_line(item, is_driven=holder is not None))
    for run_id, record in failed.items():
        log = store.failures / run_id / str(record.provenance.attempt) / "log.txt"
        out.print(f"  {record.status} {record.name} ({run_id}): {record.error}; log: {log}", soft_wrap=True)
    return 0


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
        of_stage[EXPECTED] = of_stage.get(EXPECTED, 0) + 1
    return counts


def _line(item: Live, *, is_driven: bool) -> str:
    verb = "running" if is_driven else "cut off"
    loss = f"  loss {item.loss:.3f}" if item.loss is not None else ""
    age = time.time() - item.heard_at
    return f"  {verb} {item.run_id} step {item.step}/{item.total}{loss}  (heard {age:.0f} s ago)"
