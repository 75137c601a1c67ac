"""`report`: tables, figures and verdict from what is done, without running anything.

It writes report.html (all in one file, to read, print or send), report.md, comparison.csv, comparison.tex, results.csv,
figures/ and paper/ (methods, captions, references and every number as a LaTeX macro) into DIR/reports/STUDY.

With --figure it draws one figure again instead, in seconds:

  report rank_study --figure loss_curves --slide
  report rank_study --figure outcome_by_rank --column --format pdf --out fig2.pdf
  report rank_study --figure loss_curves --arms random,svd --rank 4,16

An arm keeps its colour whichever others are shown. Text in SVG and PDF stays text. The numbers go beside it as CSV.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli import answers
from orchestrator.cli.options import (
    add_json,
    add_store,
    add_study,
    command_of,
    console,
    make_plan,
    open_store,
    print_json,
    views_folder,
)

if TYPE_CHECKING:
    from orchestrator.plan import Plan
    from orchestrator.store import Store

FORMATS = ("png", "svg", "pdf")


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "report",
        help="tables, figures and verdict from what is done",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_study(parser)
    add_store(parser)
    add_json(parser)
    _add_figure(parser)
    answers.add_options(parser)
    parser.set_defaults(execute=execute)


def _add_figure(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("one figure again")
    group.add_argument(
        "--figure",
        metavar="NAME",
        help="loss_curves, outcome_by_rank, outcomes, differences, spectrum, layers, selection; of a search: history, "
        "importance, slices, trade_off",
    )
    group.add_argument("--arms", metavar="A,B", help="only these arms")
    group.add_argument("--rank", metavar="R,S", help="only these ranks; of --answers, too")
    looks = group.add_mutually_exclusive_group()
    looks.add_argument("--slide", action="store_true", help="16:9, with larger type")
    looks.add_argument("--column", action="store_true", help="3.35 inches wide, for a paper's column; without a title")
    group.add_argument("--format", choices=FORMATS, help="default: the ending of --out, or png")
    group.add_argument("--out", metavar="FILE", help="default: beside the report's figures")


def execute(options: argparse.Namespace) -> int:
    """Write the report from the records there are, and print its table; or draw one figure of it again."""
    from orchestrator.errors import UserError
    from orchestrator.views import Views

    _check(options)
    answers.refuse_without_answers(options)
    store = open_store(options)
    plan = make_plan(options, store)
    views = Views(
        plan, store, views_folder(options, store), shlex.join(["python", "-m", "orchestrator", *options.words])
    )
    if not views.has_report():
        _refuse_empty_search(options, plan, store)
        raise UserError(
            f"nothing to compare of {plan.study.name} (scale {plan.study.scale}) is finished in {store.root}; "
            f"run it with: {command_of(options, 'sweep')}"
        )
    if options.figure:
        return _draw(options, views)
    if options.answers and plan.study.search is not None:
        raise UserError(f"--answers puts arms side by side, and {plan.study.name} is a search: it compares none")
    if options.answers:
        return answers.execute(options, plan, store, views.report_folder)
    views.write_report()
    table = views.report()
    if options.json:
        print_json(views.summary())
    elif table is not None:
        table.show(console())
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what only makes sense for one figure where none is named, and a file that is no picture."""
    from orchestrator.errors import UserError

    given = [name for name in ("arms", "rank", "slide", "column", "format", "out") if getattr(options, name)]
    if options.figure and options.answers:
        raise UserError("--figure and --answers are two things; ask for one of them")
    if options.answers:
        given = [name for name in given if name != "rank"]
    if given and not options.figure:
        raise UserError(f"--{given[0]} is for one figure; name it with --figure NAME")
    _ranks(options.rank)
    ending = Path(options.out or "a.png").suffix[1:].lower()
    if ending not in FORMATS or (options.format not in (None, ending) and options.out):
        raise UserError(f"--out {options.out}: the file ends in {' or '.join(FORMATS)}, and agrees with --format")


def _draw(options: argparse.Namespace, views: Any) -> int:
    from orchestrator.report import style
    from orchestrator.report.redraw import Wish, redraw

    out = Path(options.out).expanduser().absolute() if options.out else None
    look = style.SLIDE if options.slide else style.COLUMN if options.column else style.REPORT
    kind = options.format or (out.suffix[1:].lower() if out else "png")
    wish = Wish(options.figure, _names(options.arms), _ranks(options.rank), look, kind, out)
    if views.plan.study.search is not None:
        from orchestrator.report.search import writer

        drawn = writer.redraw(views.plan, views.store, views.report_folder, wish)
    else:
        drawn = redraw(views.plan, views.store, views.report_folder, wish)
    if options.json:
        print_json({"figure": str(drawn.picture), "numbers": str(drawn.numbers), "caption": drawn.caption})
    else:
        sys.stdout.write(f"{drawn.caption}\n{drawn.picture}\n{drawn.numbers}\n")
    return 0


def _refuse_empty_search(options: argparse.Namespace, plan: Plan, store: Store) -> None:
    from orchestrator.errors import UserError

    if plan.study.search is not None:
        raise UserError(
            f"no point of {plan.study.name} (scale {plan.study.scale}) is done in {store.root}; "
            f"run it with: {command_of(options, 'sweep')}"
        )


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _ranks(text: str | None) -> tuple[int, ...]:
    from orchestrator.errors import UserError

    wrong = next((name for name in _names(text) if not name.isdecimal()), None)
    if wrong is not None:
        raise UserError(f"--rank {wrong}: ranks are whole numbers, such as --rank 4,16")
    return tuple(int(name) for name in _names(text))
