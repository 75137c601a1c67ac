"""The report as LaTeX: text escaped, tables with booktabs, captions as macros. Nothing here is drawn or computed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from orchestrator.report import tables as report_tables
from orchestrator.report.document import CODE, Document, long_columns
from orchestrator.report.paper import names
from orchestrator.report.sections import Grid
from orchestrator.report.summary import Summary

WIDE = 8
"""A table of more columns is made as wide as the text, and no wider."""
SIGNS = {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "‖": r"\ensuremath{\Vert}",
    "×": r"\ensuremath{\times}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
    "≈": r"\ensuremath{\approx}",
    "√": r"\ensuremath{\surd}",
    "→": r"\ensuremath{\rightarrow}",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    '"': "''",
    "—": "---",
    "…": r"\ldots{}",
    "\u00a0": "~",
    "\n": " ",
}


def escape(text: str) -> str:
    """Return text with what is special to LaTeX escaped.

    Letters stay (UTF-8), Greek ones and raised digits as mathematics; control codes go, and a sign that nobody knows
    becomes its code, where the reader sees it.
    """
    return "".join(_escaped(character) for character in text if character.isprintable() or character in "\n\u00a0")


def _escaped(character: str) -> str:
    known = SIGNS.get(character)
    if known is not None:
        return known
    told = report_tables.latex(character)
    if character.isascii() or told != character:
        return told
    name, parts = unicodedata.name(character, ""), unicodedata.decomposition(character).split()
    if parts[:1] == ["<super>"]:
        return rf"\ensuremath{{^{{{chr(int(parts[1], 16)).replace('−', '-')}}}}}"
    if greek := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name):
        letter = greek[2].lower() if greek[1] == "SMALL" else greek[2].capitalize()
        return rf"\ensuremath{{\{letter}}}"
    return character if character.isalpha() else rf"\texttt{{U+{ord(character):04X}}}"


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
    if len(grid.header) > WIDE and not long_columns(grid):
        body = f"\\resizebox{{\\linewidth}}{{!}}{{%\n{body}%\n}}"
    start = f"\\begin{{table}}\n\\centering\\small\n\\caption{{{caption}}}\n\\label{{{_label(label)}}}\n"
    return f"{start}{body}\n\\end{{table}}\n"


def _tabular(grid: Grid) -> Iterator[str]:
    yield f"\\begin{{tabular}}{{{_columns(grid)}}}"
    yield "\\toprule"
    yield _row(grid.header)
    yield "\\midrule"
    for index, row in enumerate(grid.rows):
        if index in grid.rules:
            yield "\\midrule"
        yield _row(row)
    yield "\\bottomrule"
    yield "\\end{tabular}"


def _columns(grid: Grid) -> str:
    """Return the columns: left, right, or a paragraph where cells are long, which then share the rest of the line."""
    long = long_columns(grid)
    widths = [max(map(len, cells)) for cells in zip(grid.header, *grid.rows, strict=True)]
    rest = max(0.4, 0.95 - sum(PER_LETTER * width for index, width in enumerate(widths) if index not in long))
    whole = sum(widths[index] ** 0.5 for index in long)
    shares = {index: rest * widths[index] ** 0.5 / whole for index in long}
    return "".join(
        f"p{{{shares[index]:.2f}\\linewidth}}" if index in long else "l" if index < grid.text_columns else "r"
        for index in range(len(widths))
    )


PER_LETTER = 0.013
"""Width of a letter in a small table, with its share of the space between columns, as a part of the line."""


def _row(cells: list[str]) -> str:
    row = " & ".join(map(inline, cells))
    return f"{{}}{row} \\\\" if row.startswith("[") else f"{row} \\\\"


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9:-]", "-", text)
