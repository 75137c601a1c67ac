"""answers.csv with every answer of every run, and answers.md with the questions that were asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.durable import write_atomically
from orchestrator.report import formatting
from orchestrator.report.answers.sides import Only, Question, SideBySide
from orchestrator.report.answers.terminal import counts, mark, plain


def write(
    folder: Path, everything: Sequence[SideBySide], shown: Sequence[SideBySide], *, title: str, only: Only | None = None
) -> list[Path]:
    """Write both files into `folder`; return their paths. `shown` are the groups that answers.md has."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"answers.md": markdown(shown, title=title, only=only), "answers.csv": table(everything)}
    for name, text in files.items():
        write_atomically(folder / name, text, durable=False)
    return [folder / name for name in files]


def table(groups: Sequence[SideBySide]) -> str:
    """Return a row per group, question, subject and run as CSV."""
    names = list(dict.fromkeys(name for sides in groups for name in sides.group))
    rows = list(_rows(groups))
    text = io.StringIO()
    header = [*names, "item", "question", "reference", "subject", "run_id", "correct", "given"]
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(groups: Sequence[SideBySide]) -> Iterator[dict[str, Any]]:
    for sides in groups:
        for question in sides.questions:
            about = {**sides.group, "item": question.id, "question": question.text, "reference": question.reference}
            for subject in sides.subjects:
                for told in subject.told.get(question.key, ()):
                    answer = {"run_id": told.run, "correct": int(told.is_right), "given": told.given}
                    yield {**about, "subject": subject.label, **answer}


def markdown(groups: Sequence[SideBySide], *, title: str, only: Only | None) -> str:
    """Return the counts of every group, then question by question what each subject answered."""
    parts = [f"# Answers of {title}"]
    for sides in groups:
        where = formatting.group(sides.group)
        parts += [f"## {where[:1].upper()}{where[1:]}"] if where else []
        head = ["", "runs", "right", f"gains on {sides.baseline}", "loses"]
        parts += [_pipes(head, list(counts(sides)))]
        chosen = sides.only(only)
        said = f"{len(chosen)} of {len(sides.questions)} questions" + (f" ({only})" if only else "")
        parts += [f"{said}. Where there are several runs, the answer is the first one's; 1/2: one of two is right."]
        parts += [part for number, question in enumerate(chosen, 1) for part in _question(sides, number, question)]
    return "\n\n".join(parts) + "\n"


def _question(sides: SideBySide, number: int, question: Question) -> list[str]:
    rows = [
        [subject.label, mark(subject, question), told[0].given if (told := subject.told.get(question.key)) else ""]
        for subject in sides.subjects
    ]
    table = _pipes(["", "", "answer"], rows)
    return [f"### {number}. {plain(question.text)}", f"Reference: {plain(question.reference)}", table]


def _pipes(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, [":--"] * len(header), *rows]
    return "\n".join("| " + " | ".join(plain(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
