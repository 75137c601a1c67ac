"""`report`: tables, figures and verdict from what is done, without running anything."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from orchestrator.cli import answers
from orchestrator.cli.options import (
    add_json,
    add_store,
    add_study,
    console,
    make_plan,
    open_store,
    print_json,
    views_folder,
)


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("report", help="tables, figures and verdict from what is done", description=__doc__)
    add_study(parser)
    add_store(parser)
    add_json(parser)
    answers.add_options(parser)
    parser.add_argument("--rank", metavar="R,S", help="only these ranks")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Write the report from the records there are, and print its table."""
    from orchestrator.errors import UserError
    from orchestrator.views import Views

    answers.refuse_without_answers(options)
    store = open_store(options)
    plan = make_plan(options, store)
    views = Views(
        plan, store, views_folder(options, store), shlex.join(["python", "-m", "orchestrator", *options.words])
    )
    if not views.has_report():
        raise UserError(
            f"nothing to compare of {plan.study.name} (scale {plan.study.scale}) is finished in {store.root}; "
            f"run it with: python -m orchestrator sweep {options.study}"
        )
    if options.answers:
        return answers.execute(options, plan, store, views.report_folder)
    views.write_report()
    table = views.report()
    if options.json:
        print_json(views.summary())
    elif table is not None:
        table.show(console())
    return 0
