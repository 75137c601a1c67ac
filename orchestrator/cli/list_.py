"""`list`: the studies, one line each."""

from __future__ import annotations

import argparse
from typing import Any

from orchestrator.cli.options import add_json, console, print_json


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("list", help="studies and scales, one line each", description=__doc__)
    add_json(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print every study with its question, and every scale."""
    from rich.table import Table
    from rich.text import Text

    from orchestrator import studies

    rows = {name: studies.summary(name) for name in studies.names()}
    if options.json:
        print_json({"studies": rows, "scales": dict(studies.scales())})
        return 0
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, line in rows.items():
        table.add_row(Text(name, style="bold"), line)
    table.add_row("", "")
    for name, line in studies.scales():
        table.add_row(f"--scale {name}", line)
    console().print(table)
    return 0
