"""Writes a report's files: tables, figures, links, and report.md with all in one; report.json and the state last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.durable import write_atomically
from orchestrator.freshness import record_states
from orchestrator.items import item_table
from orchestrator.plan import Plan
from orchestrator.record import Record
from orchestrator.rehearsal import first
from orchestrator.report import document, drawing, figures, formatting, html, markdown, paper, rehearsal, tables
from orchestrator.report.claims.oscillation import with_oscillation
from orchestrator.report.comparison import summarise
from orchestrator.report.current import SUMMARY, mark
from orchestrator.report.family import Family
from orchestrator.report.links import write_links
from orchestrator.report.material import Material, Written
from orchestrator.report.paper import bibliography
from orchestrator.report.summary import Summary
from orchestrator.results import VOLATILE_COLUMNS, tidy, write_csv
from orchestrator.statistics.items import ONE_WAY, TWO_WAY
from orchestrator.store import Store

TEMPLATES = Path(__file__).parent / "templates"


def write(plan: Plan, store: Store, folder: Path, *, command: str = "") -> Summary:
    """Write the whole report into `folder`, from the records there are; return what it says.

    Of a rehearsal it is the report of the first repetition, with what all of them say of the design.
    """
    states, whole, plan = record_states(plan, store), plan, first(plan)
    records = store.records(run.id for run in plan.runs)
    table = _with_oscillation(tidy(plan, store), records)
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarise(plan, table, records, store, command=command)
    if (rehearsed := rehearsal.section(whole, store)) is not None:
        summary = summary.model_copy(update={"sections": [rehearsed, *summary.sections]})
    material = Material(plan, store, records, Family(plan.study, table), summary, command=command)
    pictures = drawing.write_all(figures.FIGURES, material, folder / "figures")
    captions = {name: picture.caption for name, picture in pictures.items()}
    summary = summary.model_copy(update={"figures": captions})
    write_csv(table, folder / "results.csv")
    write_csv(item_table(plan, store), folder / "items.csv")
    tables.write_csv(summary, folder / "comparison.csv")
    context = _context(plan, summary, records, command)
    write_atomically(folder / "comparison.md", _rendered("comparison.md", context), durable=False)
    write_atomically(folder / "comparison.tex", _latex(summary), durable=False)
    _write_document(replace(material, summary=summary), pictures, context, folder)
    write_links(plan, store, folder / "runs")
    write_atomically(folder / SUMMARY, summary.model_dump_json(indent=1), durable=False)
    mark(whole, folder, states)
    return summary


def _write_document(
    material: Material, pictures: Mapping[str, Written], context: Mapping[str, Any], folder: Path
) -> None:
    """Write report.html, the same as report.md, and the paper pack beside them."""
    composed = document.compose(material, context)
    references = bibliography.used(material)
    told = {
        "title": composed.title,
        "headline": composed.headline,
        "sections": markdown.sections(composed.sections, material.summary.figures),
        "references": references,
    }
    write_atomically(folder / "report.md", _rendered("report.md", {**context, **told}), durable=False)
    write_atomically(folder / "report.html", html.render(composed, pictures, references), durable=False)
    paper.write(material, composed, references, folder / "paper")


def _with_oscillation(table: pd.DataFrame, records: Mapping[str, Record]) -> pd.DataFrame:
    """Return the tidy table with the column that is computed from the histories, before those of time and place."""
    found = with_oscillation(table, records)
    last = [name for name in VOLATILE_COLUMNS if name in found]
    empty = [name for name in found if name not in table and found[name].isna().all()]
    return found[[*(name for name in found if name not in [*last, *empty]), *last]]


def _context(plan: Plan, summary: Summary, records: Mapping[str, Record], command: str) -> dict[str, Any]:
    methods = sorted({item.interval_method for item in summary.differences if item.interval_method})
    comparison = plan.study.comparison
    replicates = comparison.replicate if comparison else ""
    is_by_item = any(item.unit == "item" for item in summary.differences)
    is_exact = all(item.is_exact for item in summary.differences)
    interval, adjusted = _described(methods), formatting.adjusted(summary)
    direction = f"{'Higher' if summary.higher_is_better else 'Lower'} is better."
    return {
        "summary": summary,
        "verdicts": markdown.verdicts(summary.differences),
        "adjusted": adjusted,
        "comparison": tables.markdown(tables.comparison(summary)),
        "differences": tables.markdown(tables.differences(summary)),
        "quotes": tables.markdown(tables.quotes(summary)),
        "replicates": replicates,
        "is_by_item": is_by_item,
        "is_exact": is_exact,
        "interval": interval,
        "direction": direction,
        "how_tested": (
            f"Differences paired by {'item, averaged over runs' if is_by_item else replicates}. "
            f"Two-sided {'exact' if is_exact else 'Monte Carlo'} sign-flip test of the mean difference; "
            f"the interval {interval}; {adjusted}. d_z: mean over standard deviation of the differences. {direction}"
        ),
        "words": formatting.WORDS,
        "counts": ", ".join(f"{number} {status}" for status, number in summary.counts.items()),
        "provenance": provenance(records, command),
    }


def _described(methods: list[str]) -> str:
    """Return how the intervals were made; a t interval, used where there are few pairs, is named as one."""
    words = {
        "sign-flip test inverted": "is the set of differences that the same test keeps (95 %)",
        TWO_WAY: "is a 95 % t interval over items and runs together",
        ONE_WAY: "is a 95 % t interval over items",
    }
    told = [words.get(method, f"is a 95 % t interval where the pairs are few ({method})") for method in methods]
    return " or ".join(told) or "needs two pairs"


def provenance(records: Mapping[str, Record], command: str) -> list[str]:
    """Return lines on how the records came to be: command, commit, packages, hosts, and how long it took."""
    about = [record.provenance for record in records.values()]
    packages = Counter(f"{name} {version}" for item in about for name, version in item.packages.items())
    commits = sorted({item.git for item in about if item.git})
    hosts = sorted({item.host for item in about})
    core_seconds = sum(item.seconds * item.place.get("cpus", 1) * item.place.get("workers", 1) for item in about)
    lines = [f"This report was made by `{command}`."] if command else []
    changed = " (+: with changes that are in no commit)" if any(commit.endswith("+") for commit in commits) else ""
    lines += [f"Commit: {', '.join(commits)}{changed}." if commits else "No git checkout."]
    lines += [f"Packages: {', '.join(sorted(packages))}."] if packages else []
    lines += [f"Hosts: {', '.join(hosts)}; {core_seconds:,.0f} core-seconds in all."] if about else []
    return lines


def _rendered(name: str, context: Mapping[str, Any]) -> str:
    return str(_markdown().get_template(f"{name}.j2").render(context))


@cache
def _markdown() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(  # noqa: S701 (Markdown, from our own records)
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )


def _latex(summary: Summary) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701 (LaTeX: escaped by tables.latex)
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        block_start_string=r"\BLOCK{",
        block_end_string="}",
        variable_start_string=r"\VAR{",
        variable_end_string="}",
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    table = tables.comparison(summary)
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    rows = [" & ".join(map(tables.latex, row)) for row in table.rows]
    context = {"columns": columns, "header": " & ".join(map(tables.latex, table.header)), "rows": rows}
    return str(environment.get_template("comparison.tex.j2").render(context, rules=table.rules, study=summary.study))
