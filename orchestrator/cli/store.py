"""`store`: verify (hashes), gc (make room), sync (bring MLflow, Optuna and the reports up to date)."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from orchestrator.cli.options import (
    DEFAULT_STORE,
    add_json,
    add_store,
    add_study,
    add_tensorboard,
    console,
    existing_store,
    make_plan,
    print_json,
    sync_command,
    views_folder,
)


def add(verbs: Any) -> None:
    """Add the verb and its three actions."""
    parser = verbs.add_parser("store", help="verify, gc, sync", description=__doc__)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    verify = actions.add_parser("verify", help="check every file's sha256 against the records")
    add_store(verify)
    add_json(verify)
    verify.set_defaults(execute=execute_verify)

    gc = actions.add_parser("gc", help="sizes, and what no pending run needs dropped; records stay")
    add_store(gc)
    gc.add_argument("--delete", action="store_true", help="delete what is listed; without it nothing is deleted")
    gc.add_argument(
        "--weights",
        action="store_true",
        help="also drop the weights of finished runs (base, teacher, factors, adapters); made again when needed",
    )
    gc.add_argument("--forget", metavar="RUN", action="append", default=[], help="drop this run, record included")
    gc.set_defaults(execute=execute_gc)

    sync = actions.add_parser("sync", help="bring MLflow, Optuna and the report of a study up to date")
    add_study(sync)
    add_store(sync)
    add_tensorboard(sync)
    sync.set_defaults(execute=execute_sync)


def execute_verify(options: argparse.Namespace) -> int:
    """Print what is damaged; exit code 1 if anything is."""
    from orchestrator.identity import sha256_file

    store = existing_store(options)
    flaws = {run_id: store.flaws(run_id, sha256_file) for run_id in store.ids()}
    wrong = {run_id: [f"{run_id}/{name} {what}" for name, what in found.items()] for run_id, found in flaws.items()}
    wrong = {run_id: lines for run_id, lines in wrong.items() if lines}
    if options.json:
        print_json({"checked": len(store.ids()), "damaged": wrong})
    else:
        for lines in wrong.values():
            for line in lines:
                console().print(line, soft_wrap=True)
        console().print(f"{len(store.ids())} runs checked, {len(wrong)} damaged")
        if wrong:
            where = ["--store", options.store] if options.store != DEFAULT_STORE else []
            again = shlex.join(["python", "-m", "orchestrator", "sweep", "STUDY", *where, "--redo", next(iter(wrong))])
            console().print(f"make one again, with the study that it belongs to: {again}", soft_wrap=True)
    return 1 if wrong else 0


def execute_gc(options: argparse.Namespace) -> int:
    """Print what can go, with its size; delete it if told to."""
    from orchestrator.gc import collect, drop
    from orchestrator.lookup import find_run

    store, out = existing_store(options), console()
    found = collect(store, weights=options.weights)
    for item in found:
        out.print(f"{item.size / 2**20:>10.1f} MiB  {item.path.relative_to(store.root)}  {item.reason}", soft_wrap=True)
    forget = [find_run(text, store) for text in options.forget]
    total = sum(item.size for item in found) / 2**20
    if not options.delete and not forget:
        out.print(f"{total:>10.1f} MiB can go; delete it with --delete")
        return 0
    with store.lock("store gc"):
        for run_id in forget:
            store.forget(run_id)
            out.print(f"forgot {run_id}")
        if options.delete:
            drop(found)
            out.print(f"{total:>10.1f} MiB deleted")
    return 0


def execute_sync(options: argparse.Namespace) -> int:
    """Rebuild what the views lack from the records; exit code 1 if MLflow could not be told."""
    from orchestrator.views import Views

    store = existing_store(options)
    plan = make_plan(options, store)
    with store.lock(f"store sync {options.study}"):
        folder, command = views_folder(options, store), sync_command(options)
        views = Views(plan, store, folder, sync=command, tensorboard=options.tensorboard)
        is_complete = views.complete(look=True)
    if is_complete:
        sys.stderr.write(f"the views of {plan.study.name} are up to date with the records in {store.root}\n")
    return 0 if is_complete else 1
