"""`report STUDY --answers`: base, teacher, untrained SVD and arms side by side on the same questions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.options import console, print_json

if TYPE_CHECKING:
    from orchestrator.plan import Plan
    from orchestrator.report.answers import SideBySide
    from orchestrator.store import Store

SHOWN = 20
KINDS = ("gained", "lost", "differing")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--answers` and what chooses among them; `--rank` is the report's own."""
    group = parser.add_argument_group("answers")
    group.add_argument(
        "--answers", action="store_true", help="base, teacher and arms side by side on the same questions"
    )
    group.add_argument("--items", metavar="N", type=_count, help=f"questions to show (default: {SHOWN})")
    group.add_argument(
        "--only", choices=KINDS, help="questions that an arm gains or loses on the baseline, or that subjects differ in"
    )


def refuse_without_answers(options: argparse.Namespace) -> None:
    """Raise UserError for an option that chooses among answers where none are asked for."""
    from orchestrator.errors import UserError

    for name in ("items", "only"):
        if getattr(options, name) is not None and not options.answers:
            raise UserError(f"--{name} {getattr(options, name)} chooses among answers: add --answers")


def execute(options: argparse.Namespace, plan: Plan, store: Store, folder: Path) -> int:
    """Print the answers, and write answers.md and answers.csv into the report's folder."""
    from orchestrator.report.answers import TerminalAnswers, read, write

    groups = read(plan, store)
    shown = _of_ranks(groups, options.rank)
    paths = write(folder, groups, shown, title=plan.study.name, only=options.only)
    if options.json:
        print_json([_as_json(sides, options) for sides in shown])
        return 0
    out = console()
    for sides in shown:
        out.print(TerminalAnswers(sides, options.items or SHOWN, options.only))
        out.print()
    if len(shown) < len(groups):
        known = ",".join(str(sides.group.get("rank", "")) for sides in groups)
        out.print(f"ranks with answers: {known}; another with --rank", style="dim")
    for path in paths:
        out.print(str(path), soft_wrap=True)
    return 0


def _of_ranks(groups: Sequence[SideBySide], wanted: str | None) -> list[SideBySide]:
    """Return the groups of these ranks ("4,16"); the last group where none is asked for."""
    from orchestrator.errors import UserError

    if wanted is None:
        return list(groups[-1:])
    ranks = [name.strip() for name in wanted.split(",")]
    known = dict.fromkeys(str(sides.group["rank"]) for sides in groups if "rank" in sides.group)
    for rank in ranks:
        if rank not in known:
            raise UserError(f"--rank {rank}: the study has answers at rank {', '.join(known) or 'none'}")
    return [sides for sides in groups if str(sides.group.get("rank")) in ranks]


def _as_json(sides: SideBySide, options: argparse.Namespace) -> dict[str, object]:
    questions = sides.only(options.only)[: options.items]
    return {
        "group": dict(sides.group),
        "baseline": sides.baseline,
        "right": {subject.label: subject.right(sides.questions) for subject in sides.subjects},
        "gained": {arm.label: [question.id for question in sides.gained(arm)] for arm in sides.arms},
        "lost": {arm.label: [question.id for question in sides.lost(arm)] for arm in sides.arms},
        "questions": [
            {
                "item": question.id,
                "question": question.text,
                "reference": question.reference,
                "answers": {
                    subject.label: [{"run_id": t.run, "given": t.given, "correct": t.is_right} for t in told]
                    for subject in sides.subjects
                    if (told := subject.told.get(question.key))
                },
            }
            for question in questions
        ],
    }


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of questions; give 1 or more")
    return int(text)
