"""The command line: one file per verb, parsing only. What a verb does is imported when it runs."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from orchestrator import __version__
from orchestrator.cli import compare, export, list_, plan, report, show, status, store, sweep, ui
from orchestrator.errors import UserError

VERBS = (list_, plan, sweep, status, report, compare, show, export, store, ui)

EPILOG = """\
examples
  python -m orchestrator sweep smoke                              the whole pipeline on a tiny model, within a minute
  python -m orchestrator plan rank_study                          what would run, why, what it costs; runs nothing
  python -m orchestrator sweep rank_study                         run what is missing, then the comparison
  python -m orchestrator sweep rank_study --axis student.rank=4,16,32,64     add a rank: only its runs are executed
  python -m orchestrator sweep rank_study --set dataset.source=train.json    the same question on your own data
  python -m orchestrator export --base B --tuned T --rank 16 --out DIR       a LoRA adapter from any two checkpoints

A run that is finished is never executed again; to resume after anything at all, run the same command again.
Results go to stdout, progress to stderr. Exit codes: 0 done, 1 some runs failed, 2 a mistake in the command,
130, 138 or 143 stopped by SIGINT, SIGUSR1 or SIGTERM.
"""
CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
"""What argparse says of a word that is none of those it knows."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are one line, as all of ours are."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and where to read more; exit code 2."""
        if chosen := CHOICE.search(message):
            near = difflib.get_close_matches(chosen[1], re.findall(r"[\w-]+", chosen[2]), n=1)
            message += f"; did you mean {near[0]!r}?" if near else ""
        self.exit(2, f"orchestrator: {message}; see {self.prog} --help\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed options; `options.execute(options)` does the work and returns the exit code."""
    parser = Parser(
        prog="python -m orchestrator",
        description="Sweeps for LoRA research: teacher, SVD export, students, and tables that a referee accepts.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lora-sweep-orchestrator {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=Parser)
    for module in VERBS:
        module.add(verbs)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        parser.print_help()
        parser.exit(2)
    try:
        return parser.parse_args(words, argparse.Namespace(words=words))
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
