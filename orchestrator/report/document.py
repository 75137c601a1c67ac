"""The whole report as sections in reading order, before any rendering: HTML and LaTeX show the same ones.

The verdict comes first; it is no section, for it is sentences with labels that each rendering colours in its way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.report import formatting, spectra, tables
from orchestrator.report.material import Material
from orchestrator.report.measures import MEASURES
from orchestrator.report.sections import Grid, Section
from orchestrator.report.summary import Summary

PLACED = {
    "selection": ("Selected settings", ("selection",)),
    "curves": ("Curves", ("loss_curves",)),
    "outcome": ("Outcome and differences", ("outcome_by_rank", "outcomes", "differences")),
    "spectra": ("Spectra", ("spectrum",)),
}
"""Sections that are figures: name -> title and figures, in order; with what a section of that name has to say."""
CODE = re.compile(r"`([^`]+)`")
"""What is written between backticks is a command or a name."""


@dataclass(frozen=True)
class Document:
    """A report as pieces: what it is about, its verdicts in short, and its sections.

    `deciding` are the commands that would decide what is not decided, each with what it rests on.
    """

    title: str
    summary: Summary
    headline: str
    sections: list[Section]
    deciding: list[tuple[str, str]]
    heading: str = "Verdict"
    """Of what comes first."""


def compose(material: Material, context: Mapping[str, Any]) -> Document:
    """Return the document of a summary; `context` is what the writer tells every template."""
    summary = material.summary
    scale = f" at scale {summary.scale}" if summary.scale else ""
    deciding = list(dict.fromkeys((item.decide, item.decide_why) for item in summary.differences if item.decide_why))
    sections = list(_sections(material, context))
    return Document(f"{summary.study}{scale}", summary, headline(summary), sections, deciding)


def headline(summary: Summary) -> str:
    """Return how many comparisons ended how: "3 comparisons: 2 supported, 1 inconclusive"."""
    counts = Counter(item.verdict for item in summary.differences)
    if not counts:
        return "Nothing is compared."
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.most_common())
    total = len(summary.differences)
    return f"{total} comparison{'s' if total != 1 else ''} of {_words(summary.metric)}: {told}."


def label(verdict: str) -> str:
    """Return a verdict as a name for a style: "under-powered-by-design"."""
    return re.sub(r"[^a-z]+", "-", verdict.lower()).strip("-")


def long_columns(grid: Grid) -> set[int]:
    """Return the columns of a table that hold more than a few words: they are wrapped, the others are not."""
    columns = enumerate(zip(*grid.rows, strict=True))
    return {index for index, cells in columns if max(map(len, cells), default=0) > LONG}


LONG = 32
"""Characters of a cell from which on it is wrapped."""


def _sections(material: Material, context: Mapping[str, Any]) -> Iterator[Section]:
    summary = material.summary
    used = {name for section in summary.sections for name in section.figures}
    yield _comparison(summary, context)
    for name, (title, figures) in PLACED.items():
        shown = [figure for figure in figures if figure in summary.figures and figure not in used]
        used |= set(shown)
        said = next((section for section in summary.sections if section.name == name), None)
        if shown or said:
            yield (said or Section(name=name, title=title)).model_copy(update={"figures": shown})
    layers = _layers(material)
    if layers is not None:
        used |= set(layers.figures)
        yield layers
    yield from (section for section in summary.sections if section.name not in PLACED)
    rest = [name for name in summary.figures if name not in used]
    if rest:
        yield Section(name="more-figures", title="More figures", figures=rest)
    if summary.failures:
        yield _failures(summary)
    yield _reproduce(summary, context)


def _comparison(summary: Summary, context: Mapping[str, Any]) -> Section:
    target = f"; the target is a {summary.target}" if summary.target else ""
    cells = (
        "Cells are means over the runs with their 95 % t interval (±); n counts the runs behind them, with those that "
        f"ended otherwise. Steps to target: the median{target}; “> N” means that the middle run had not reached it "
        "after N steps."
    )
    grids = [_grid(_outcomes(summary), caption="Base, teacher and arms: outcomes. " + cells)]
    if (others := _others(summary)).header:
        grids.append(_grid(others, caption="Base, teacher and arms: what else was measured, and what it cost."))
    if summary.differences:
        grids.append(_grid(tables.differences(summary), caption="Paired differences. " + str(context["how_tested"])))
    if any(value for item in summary.quotes for value in (item.initial_loss, item.steps, item.final_loss)):
        grids.append(_grid(tables.quotes(summary), caption=PERCENT))
    notes = [text for text in (summary.gap_note,) if text]
    return Section(name="comparison", title="Comparison", paragraphs=notes, grids=grids)


def _outcomes(summary: Summary) -> tables.Table:
    """Return the comparison in losses, answers, gap and steps, the primary outcome first."""
    found = sorted((m for m in MEASURES if m.key in OUTCOMES), key=lambda m: m.source != summary.metric)
    return tables.comparison(summary, found)


def _others(summary: Summary) -> tables.Table:
    """Return the comparison in all other measures; without a header if there is none."""
    others = [m for m in MEASURES if m.key not in OUTCOMES and any(m.key in line.numbers for line in summary.lines)]
    whole = tables.comparison(summary, others)
    rows = [row[:-1] for row in whole.rows]
    return tables.Table(whole.header[:-1] if others else [], rows, whole.rules, whole.text_columns)


OUTCOMES = ("test_loss", "accuracy", "gap_closed", "initial_loss", "final_loss", "best_loss")
"""Measures of the first table; those of the second are all others."""
PERCENT = (
    "Percent of the mean of the baseline, with Fieller's 95 % interval; negative is lower. A lower initial loss of a "
    "student that starts at the teacher holds by construction: it is a check, not evidence. Runs that did not reach "
    "the target count with the last step they were watched for."
)


def _layers(material: Material) -> Section | None:
    """Return what the export measured of the teacher's change by layer type, at the study's ranks."""
    kept = spectra.energy_by_type(material)
    if kept.empty:
        return None
    ranks = [rank for rank in material.ranks if f"energy_{rank}" in kept]
    rows = [
        [
            str(row["type"]),
            str(row["layers"]),
            f"{row['relative_delta']:.2g}",
            f"{100 * row['share']:.1f}",
            *(f"{row[f'energy_{rank}']:.3f}" for rank in ranks),
        ]
        for _, row in kept.iterrows()
    ]
    header = ["layer type", "layers", "‖ΔW‖ / ‖W‖", "of ‖ΔW‖² (%)", *(f"energy at {rank}" for rank in ranks)]
    caption = (
        "The teacher's weight change ΔW by layer type. Energy at r: the sum of the r largest squared singular values "
        "of each layer, over ‖ΔW‖², pooled over the type's layers."
    )
    grid = Grid(header=header, rows=rows, caption=caption)
    figures = [name for name in ("layers",) if name in material.summary.figures]
    return Section(name="layers", title="Layers of the teacher's change", grids=[grid], figures=figures)


def _failures(summary: Summary) -> Section:
    rows = [
        [item.name, formatting.WORDS.get(item.status, item.status), item.error, f"`{item.run_id}`", f"`{item.log}`"]
        for item in summary.failures
    ]
    grid = Grid(header=["run", "ended", "why", "id", "log"], rows=rows, text_columns=5)
    return Section(name="failures", title="What did not finish", grids=[grid])


def _reproduce(summary: Summary, context: Mapping[str, Any]) -> Section:
    notes = [f"{note[0].upper()}{note[1:]}." if not note.endswith(".") else note for note in summary.notes if note]
    runs = f"Runs: {context['counts']}; one row for each in `results.csv`, artefacts by readable name in `runs/`."
    paragraphs = [*(f"{line}" for line in context["provenance"]), runs, *notes]
    return Section(name="reproduce", title="How to reproduce", paragraphs=paragraphs)


def _grid(table: tables.Table, *, caption: str) -> Grid:
    header = [title or "verdict" for title in table.header]
    return Grid(header=header, rows=table.rows, text_columns=table.text_columns, rules=table.rules, caption=caption)


def _words(name: str) -> str:
    return name.replace("_", " ")
