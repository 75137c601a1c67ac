"""`report`: tables, figures and verdict from what is done, without running anything."""

from __future__ import annotations

import argparse
from typing import Any

from orchestrator.cli.options import add_json, add_store, add_study, make_plan, open_store, print_json, views_folder


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("report", help="tables, figures and verdict from what is done", description=__doc__)
    add_study(parser)
    add_store(parser)
    add_json(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Write the report from the records there are, and print its table."""
    from orchestrator.errors import UserError
    from orchestrator.views import Views

    store = open_store(options)
    plan = make_plan(options, store)
    if not any(store.is_finished(run.id) for run in plan.of_stage("student") or plan.runs):
        raise UserError(
            f"nothing of {plan.study.name} (scale {plan.study.scale}) has run in {store.root}; "
            f"run it with: python -m orchestrator sweep {options.study}"
        )
    views = Views(plan, store, views_folder(options, store))
    if options.json:
        views.write_report()
        print_json(views.summary())
    else:
        views.report()
    return 0
