"""Every number of the comparison as a LaTeX macro, and as a row that says which runs it is computed from.

A number's rows are those of results.csv with its run ids; its column is the one to average there. Macros have the
digits that the report's tables have; numbers.csv has all of them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.report import formatting
from orchestrator.report.material import Material
from orchestrator.report.measures import BY_KEY, Measure
from orchestrator.report.paper import names, runs_behind
from orchestrator.report.paper.latex import escape
from orchestrator.report.summary import Difference, Line, Number, Quote, Summary
from trainables.base import Scalar

COLUMNS = ("macro", "value", "shown", "statistic", "column", "run_ids")


@dataclass(frozen=True)
class Traced:
    """One macro: its name without the backslash, its LaTeX, and what the value is and comes from.

    `statistic` is what was done with `column` of the rows of `run_ids` (mean, low, high, n, p, ...).
    """

    macro: str
    value: float | str | None
    shown: str
    statistic: str
    column: str
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where a number comes from: a column of results.csv, and the runs whose rows count."""

    column: str
    run_ids: tuple[str, ...]


def trace(material: Material) -> list[Traced]:
    """Return the numbers of the comparison in its order; every name is unique."""
    found = [*_of_family(material)]
    for line in material.summary.lines:
        found += _of_line(material, line)
    for difference in material.summary.differences:
        found += _of_difference(material, difference)
    for quote in material.summary.quotes:
        found += _of_quote(material, quote)
    chosen = names.unique(item.macro for item in found)
    return [
        Traced(name, item.value, item.shown, item.statistic, item.column, item.run_ids)
        for name, item in zip(chosen, found, strict=True)
    ]


def as_tex(summary: Summary, found: Sequence[Traced]) -> str:
    r"""Return numbers.tex: one \newcommand for each number."""
    head = f"% Numbers of the study {escape(summary.study)}; numbers.csv says what each is computed from.\n"
    return head + "".join(f"\\newcommand{{\\{item.macro}}}{{{item.shown}}}\n" for item in found)


def as_csv(found: Sequence[Traced]) -> str:
    """Return numbers.csv: one row for each macro, with all digits; run ids are separated by spaces."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in found:
        value = "" if item.value is None else item.value
        writer.writerow([item.macro, value, item.shown, item.statistic, item.column, " ".join(item.run_ids)])
    return text.getvalue()


def number(value: float, places: int) -> str:
    """Return a number as LaTeX that is right in text and in mathematics."""
    if not math.isfinite(value):
        return rf"\ensuremath{{{'-' if value < 0 else ''}\infty}}"
    text = f"{value:,.{places}f}".replace(",", "{,}")
    return rf"\ensuremath{{{text}}}" if text.startswith("-") else text


# -- the pieces of a comparison ---------------------------------------------------------------------------


def _of_family(material: Material) -> Iterator[Traced]:
    summary = material.summary
    ids = tuple(dict.fromkeys(run for item in summary.differences for run in runs_behind.difference(material, item)))
    for words, value in (("comparisons", summary.family), ("alpha", summary.alpha)):
        yield Traced(names.macro(summary.study, [words]), value, f"{value:g}", words, summary.metric, ids)


def _of_line(material: Material, line: Line) -> Iterator[Traced]:
    stem, rows = [line.label, *_group(line.group)], runs_behind.of_line(material, line)
    for key, value in line.numbers.items():
        source = Source(*runs_behind.measured(material, line, rows, key))
        measure = BY_KEY.get(key)
        scale = 100.0 if measure and measure.form == "percent" else 1.0
        places = _single_places(measure, value) if measure else None
        yield from _spread(material, [*stem, key], value, source, scale=scale, places=places)
    if line.steps is not None:
        column, ids = runs_behind.measured(material, line, rows, "steps")
        for name, count in line.steps.model_dump().items():
            shown = rf"\ensuremath{{>}}{line.steps.horizon}" if count is None else f"{count:g}"
            macro = names.macro(material.summary.study, [*stem, "steps to target", name])
            yield Traced(macro, count, shown, name, column, ids)


def _of_difference(material: Material, item: Difference) -> Iterator[Traced]:
    study, stem = material.summary.study, [item.arm, "minus", item.baseline, *_group(item.group)]
    column = "items.csv" if item.unit == "item" else material.summary.metric
    source = Source(column, runs_behind.difference(material, item))
    if item.estimate is not None:
        yield from _spread(material, [*stem, "difference"], item.estimate, source)
    if item.d_z is not None:
        shown = number(item.d_z, 2)
        yield Traced(names.macro(study, [*stem, "d z"]), item.d_z, shown, "d_z", source.column, source.run_ids)
    for words, p in (("p", item.p), ("adjusted p", item.p_adjusted), ("p within margin", item.p_equivalent)):
        if p is not None:
            shown = formatting.p_value(p).replace("<", r"\ensuremath{<}")
            yield Traced(names.macro(study, [*stem, words]), p, shown, words, source.column, source.run_ids)
    verdict = names.macro(study, [*stem, "verdict"])
    yield Traced(verdict, item.verdict, escape(item.verdict), "verdict", source.column, source.run_ids)


def _of_quote(material: Material, item: Quote) -> Iterator[Traced]:
    stem = [item.arm, "against", item.baseline, *_group(item.group)]
    for name, column in QUOTED.items():
        value: Number | None = getattr(item, name)
        if value is not None:
            ids = runs_behind.pair(material, item.arm, item.group, column)
            yield from _spread(material, [*stem, name, "percent"], value, Source(column, ids))


QUOTED = {
    "initial_loss": "initial_eval_loss",
    "steps": "steps_to_target",
    "final_loss": "final_eval_loss",
}


def _spread(
    material: Material,
    stem: Sequence[str],
    value: Number,
    source: Source,
    *,
    scale: float = 1.0,
    places: int | None = None,
) -> Iterator[Traced]:
    """Yield mean, interval, its ends and n; a mean without an interval has no macros for one."""
    digits = _places(value, scale, places)
    study, ids = material.summary.study, source.run_ids
    yield Traced(names.macro(study, stem), value.mean, number(value.mean * scale, digits), "mean", source.column, ids)
    if value.low is not None and value.high is not None:
        low, high = (number(end * scale, digits) for end in (value.low, value.high))
        name = names.macro(study, [*stem, "interval"])
        yield Traced(name, f"{value.low} {value.high}", f"[{low}, {high}]", "interval", source.column, ids)
        yield Traced(names.macro(study, [*stem, "low"]), value.low, low, "low", source.column, ids)
        yield Traced(names.macro(study, [*stem, "high"]), value.high, high, "high", source.column, ids)
    yield Traced(names.macro(study, [*stem, "n"]), value.n, str(value.n), "n", source.column, ids)


def _single_places(measure: Measure, value: Number) -> int | None:
    """Return the decimals of a value without an interval; None: three digits."""
    if measure.form == "seconds":
        return 0 if value.mean >= 10 else 1
    return 0 if measure.form == "count" else measure.places


def _places(value: Number, scale: float, places: int | None) -> int:
    """Return the decimals that the report's tables give: see `formatting`."""
    if formatting.has_width(value) and value.low is not None and value.high is not None:
        return formatting.decimals((value.high - value.low) * scale / 2)
    if places is not None:
        return places
    mean = abs(value.mean * scale)
    return 0 if mean == 0 or not math.isfinite(mean) else max(0, 2 - math.floor(math.log10(mean)))


def _group(group: Mapping[str, Scalar]) -> list[str]:
    return [f"{name} {value}" for name, value in group.items()]
