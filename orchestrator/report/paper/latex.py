"""The report as LaTeX: text escaped, tables with booktabs, captions as macros. Nothing here is drawn or computed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.report import tables as report_tables
from orchestrator.report.document import CODE, Document
from orchestrator.report.paper import names
from orchestrator.report.sections import Grid
from orchestrator.report.summary import Summary

WIDE = 8
"""A table of more columns is made as wide as the text, and no wider."""
SIGNS = {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "Δ": r"\ensuremath{\Delta}",
    "σ": r"\ensuremath{\sigma}",
    "‖": r"\ensuremath{\Vert}",
    "²": r"\ensuremath{^2}",
    "×": r"\ensuremath{\times}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
    "“": "``",
    "”": "''",
    '"': "''",
    "→": r"\ensuremath{\rightarrow}",
    "α": r"\ensuremath{\alpha}",
    "…": r"\ldots{}",
    "\n": " ",
}


def escape(text: str) -> str:
    """Return text with what is special to LaTeX escaped; letters beyond ASCII stay (UTF-8), control codes go."""
    kept = "".join(character for character in text if character.isprintable() or character == "\n")
    return "".join(SIGNS.get(character) or report_tables.latex(character) for character in kept)


def inline(text: str) -> str:
    """Return text as LaTeX: escaped, and what stands between backticks in typewriter."""
    parts = CODE.split(text)
    return "".join(rf"\texttt{{{escape(part)}}}" if i % 2 else escape(part) for i, part in enumerate(parts))


def captions(summary: Summary) -> str:
    r"""Return captions.tex: a macro for each figure, such as \rankStudyCaptionLossCurves."""
    head = f"% Captions of the figures of the study {escape(summary.study)}.\n"
    chosen = names.unique(names.macro(summary.study, ["caption", name]) for name in summary.figures)
    rows = zip(chosen, summary.figures.values(), strict=True)
    return head + "".join(f"\\newcommand{{\\{name}}}{{{inline(caption)}}}\n" for name, caption in rows)


def tables(document: Document) -> str:
    """Return tables.tex: every table of the report in a float, with its caption and a label to refer to."""
    head = (
        f"% Tables of the study {escape(document.summary.study)}.\n"
        "% Needs \\usepackage{booktabs}, and \\usepackage{graphicx} for the wide ones.\n"
    )
    pieces = [
        _table(grid, section.title, f"tab:{document.summary.study}-{section.name}-{index}")
        for section in document.sections
        for index, grid in enumerate(section.grids, start=1)
        if section.name != "failures" and grid.rows
    ]
    return "\n".join([head, *pieces])


def _table(grid: Grid, title: str, label: str) -> str:
    caption = inline(grid.caption or title)
    body = "\n".join(_tabular(grid))
    if len(grid.header) > WIDE:
        body = f"\\resizebox{{\\linewidth}}{{!}}{{%\n{body}%\n}}"
    start = f"\\begin{{table}}\n\\centering\\small\n\\caption{{{caption}}}\n\\label{{{_label(label)}}}\n"
    return f"{start}{body}\n\\end{{table}}\n"


def _tabular(grid: Grid) -> Iterator[str]:
    columns = "l" * grid.text_columns + "r" * (len(grid.header) - grid.text_columns)
    yield f"\\begin{{tabular}}{{{columns}}}"
    yield "\\toprule"
    yield _row(grid.header)
    yield "\\midrule"
    for index, row in enumerate(grid.rows):
        if index in grid.rules:
            yield "\\midrule"
        yield _row(row)
    yield "\\bottomrule"
    yield "\\end{tabular}"


def _row(cells: list[str]) -> str:
    row = " & ".join(map(inline, cells))
    return f"{{}}{row} \\\\" if row.startswith("[") else f"{row} \\\\"


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9:-]", "-", text)
