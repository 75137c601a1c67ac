"""The comparison as rows of text, and as CSV, Markdown and LaTeX: renderings of one summary."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.report import formatting
from orchestrator.report.measures import MEASURES, Measure
from orchestrator.report.sections import Grid
from orchestrator.report.summary import Difference, Line, Number, Quote, Summary

STEPS = "steps to target"


@dataclass(frozen=True)
class Table:
    """A table of text; `rules` are the rows before which a new group begins, `text_columns` are left-aligned."""

    header: list[str]
    rows: list[list[str]]
    rules: list[int]
    text_columns: int = 1


def comparison(
    summary: Summary, columns: Sequence[Measure] = MEASURES, *, is_narrow: bool = False, with_steps: bool = True
) -> Table:
    """Return the comparison: a row per reference and arm, cells are mean ± half the interval, steps to target last."""
    shown = [column for column in columns if any(column.key in line.numbers for line in summary.lines)]
    titles = [column.heading if is_narrow else column.full_title for column in shown]
    steps = ["steps" if is_narrow else STEPS] * with_steps
    header = [*summary.group_names, summary.arm_name, "n", *titles, *steps]
    rows = [_row(summary, line, shown, is_narrow)[: len(header)] for line in summary.lines]
    groups = [line.group for line in summary.lines]
    rules = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
    return Table(header, rows, rules, len(summary.group_names) + 1)


def _row(summary: Summary, line: Line, columns: Sequence[Measure], is_narrow: bool) -> list[str]:
    cells = [formatting.measure(line, column) for column in columns]
    group = [str(line.group.get(name, "")) for name in summary.group_names]
    return [*group, line.label, formatting.count(line, is_narrow=is_narrow), *cells, formatting.steps(line.steps)]


def differences(summary: Summary) -> Table:
    """Return the paired differences: a row per comparison of the family."""
    header = [
        *summary.group_names,
        "arms",
        "pairs",
        f"difference in {_words(summary.metric)}",
        "d_z",
        "p",
        "adjusted p",
        "",
    ]
    rows = [
        [
            *[str(item.group.get(name, "")) for name in summary.group_names],
            f"{item.arm} − {item.baseline}",
            f"{item.estimate.n if item.estimate else 0} of {item.planned}{' items' if item.unit == 'item' else ''}",
            formatting.with_bounds(item.estimate, signed=True),
            formatting.NOTHING if item.d_z is None else f"{item.d_z:.2f}".replace("-", formatting.MINUS),
            formatting.p_value(item.p),
            formatting.p_value(item.p_adjusted),
            item.verdict,
        ]
        for item in summary.differences
    ]
    return Table(header, rows, [], len(summary.group_names) + 1)


def quotes(summary: Summary) -> Table:
    """Return the percentages: arm against baseline in initial loss, steps to target and final loss."""
    header = [*summary.group_names, "percent", "pairs", "initial loss", STEPS, "final loss"]
    rows = [
        [
            *[str(item.group.get(name, "")) for name in summary.group_names],
            f"{item.arm} against {item.baseline}",
            str(max((value.n for value in _percentages(item) if value), default=0)),
            *(formatting.with_bounds(value, signed=True) for value in _percentages(item)),
        ]
        for item in summary.quotes
    ]
    return Table(header, rows, [], len(summary.group_names) + 1)


def _percentages(item: Quote) -> list[Number | None]:
    return [item.initial_loss, item.steps, item.final_loss]


def markdown(table: Table | Grid) -> str:
    """Return a pipe table; numbers are right-aligned."""
    aligned = [":--" if i < table.text_columns else "--:" for i in range(len(table.header))]
    lines = [table.header, aligned, *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "−": "$-$", "–": "--", "∞": r"$\infty$", ">": "$>$", "<": "$<$"}
LATEX |= {character: f"\\{character}" for character in "%_&#{}$"}


def latex(text: str) -> str:
    """Return text with what is special to LaTeX escaped, and our signs as mathematics."""
    return "".join(LATEX.get(character, character) for character in text)


def write_csv(summary: Summary, path: Path) -> None:
    """Write the comparison as numbers: mean, interval and n of every measure, then the paired difference."""
    differences = {(tuple(item.group.items()), item.arm): item for item in summary.differences}
    rows = [_numbers(line, differences.get((tuple(line.group.items()), line.label))) for line in summary.lines]
    names = list(dict.fromkeys([*summary.group_names, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())


def _numbers(line: Line, difference: Difference | None) -> dict[str, Any]:
    row: dict[str, Any] = {**line.group, "line": line.label, "kind": line.kind}
    row |= {"planned": line.planned, "done": line.done}
    row |= {"lost": " ".join(f"{status}={number}" for status, number in line.lost.items())}
    for column in MEASURES:
        row |= _spread(column.key, line.numbers.get(column.key))
    if line.steps is not None:
        row |= {f"steps_to_target_{name}": value for name, value in line.steps.model_dump().items()}
    if difference is not None:
        row |= _spread("difference", difference.estimate)
        row |= {"d_z": difference.d_z, "p": difference.p, "p_adjusted": difference.p_adjusted}
        row |= {"p_equivalent": difference.p_equivalent, "verdict": difference.verdict}
    return row


def _spread(name: str, value: Number | None) -> dict[str, Any]:
    if value is None:
        return {}
    return {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high, f"{name}_n": value.n}


def _words(name: str) -> str:
    return name.replace("_", " ")
