"""The whole report as sections in reading order, before any rendering: HTML, Markdown and LaTeX show the same ones.

The verdict comes first; it is no section, for it is sentences with labels that each rendering colours in its way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.report import formatting, spectra, tables
from orchestrator.report.claims.decide import sweep_command
from orchestrator.report.material import Material
from orchestrator.report.measures import MEASURES, Measure
from orchestrator.report.sections import Grid, Section
from orchestrator.report.summary import Summary

FRONT = ("rehearsal", "why-no-effect", "ranks", "expectations")
"""Sections that answer what is asked of the verdict: directly after the comparison."""
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
    yield from (section for name in FRONT for section in summary.sections if section.name == name)
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
    yield from (section for section in summary.sections if section.name not in {*FRONT, *PLACED})
    rest = [name for name in summary.figures if name not in used]
    if rest:
        yield Section(name="more-figures", title="More figures", figures=rest)
    if summary.failures:
        yield _failures(summary)
    yield _reproduce(material, context)


def _comparison(summary: Summary, context: Mapping[str, Any]) -> Section:
    target = f"; the target is a {summary.target}" if summary.target else ""
    cells = (
        "Cells are means over the runs with their 95 % t interval (± or in brackets; of answers: over items and runs); "
        f"n counts the runs behind them, with those that ended otherwise. Steps to target: the median{target}; "
        "“> N” means that the middle run had not reached it after N steps, and (k/n) that k of n runs reached it."
    )
    grids = [_grid(_outcomes(summary), caption="Base, teacher and arms: outcomes. " + cells)]
    if summary.differences:
        grids.append(_grid(tables.differences(summary), caption=str(context["how_tested"])))
    if any(value for item in summary.quotes for value in (item.initial_loss, item.steps, item.final_loss)):
        grids.append(_grid(tables.quotes(summary), caption=PERCENT))
    grids += [_grid(table, caption=_others_caption(measures)) for measures, table in _others(summary)]
    notes = [text for text in (summary.gap_note,) if text]
    return Section(name="comparison", title="Comparison", paragraphs=notes, grids=grids)


def _outcomes(summary: Summary) -> tables.Table:
    """Return the comparison in losses, answers, gap and steps, the primary outcome first."""
    found = sorted((m for m in MEASURES if m.key in OUTCOMES), key=lambda m: m.source != summary.metric)
    return tables.comparison(summary, found)


def _others(summary: Summary) -> Iterator[tuple[list[Measure], tables.Table]]:
    """Yield the comparison in all other measures: in one table, or in two where one would be too wide."""
    known = [m for m in MEASURES if m.key not in OUTCOMES and any(m.key in line.numbers for line in summary.lines)]
    sizes = [measure for measure in known if measure.key in SIZES]
    parts = [known] if len(known) <= WIDEST else [[m for m in known if m not in sizes], sizes]
    for measures in parts:
        if measures:
            yield measures, tables.comparison(summary, measures, with_steps=False)


def _others_caption(measures: list[Measure]) -> str:
    told = [f"{m.title}: {m.meaning}" for m in measures if m.meaning]
    is_cost = all(measure.key in SIZES for measure in measures)
    about = "what it takes" if is_cost else "what else was measured"
    explained = f" {'; '.join(told)}." if told else ""
    return f"Base, teacher and arms: {about}.{explained[:2].upper()}{explained[2:]}"


OUTCOMES = ("test_loss", "accuracy", "gap_closed", "initial_loss", "final_loss")
"""Measures of the first table; those of the further ones are all others."""
SIZES = ("energy", "parameters", "share", "seconds")
"""Measures of what an arm takes, which have a table of their own where there are many others."""
WIDEST = 6
"""Measures that a page has room for beside the arms."""
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


def _reproduce(material: Material, context: Mapping[str, Any]) -> Section:
    summary = material.summary
    commits = sorted({record.provenance.git for record in material.records.values() if record.provenance.git})
    checkout = f"`git checkout {commits[0].rstrip('+')}`, " if len(commits) == 1 else ""
    again = f"To run it: {checkout}`pip install -e .`, `{sweep_command(material.plan, material.command)}`."
    runs = f"Runs: {context['counts']}; one row for each in `results.csv`, artefacts by readable name in `runs/`."
    notes = [sentence(note) for note in summary.notes if note]
    return Section(name="reproduce", title="How to reproduce", paragraphs=[again, *context["provenance"], runs, *notes])


def sentence(note: str) -> str:
    """Return a note as a sentence; a name that it begins with keeps its small letter."""
    first = note.split()[0]
    begun = note if "_" in first else f"{note[0].upper()}{note[1:]}"
    return begun if begun.endswith(".") else f"{begun}."


def _grid(table: tables.Table, *, caption: str) -> Grid:
    header = [title or "verdict" for title in table.header]
    return Grid(header=header, rows=table.rows, text_columns=table.text_columns, rules=table.rules, caption=caption)


def _words(name: str) -> str:
    return name.replace("_", " ")
