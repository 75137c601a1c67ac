"""Writes a search's report: figures, points, pages and the best point as a study; report.json and the state last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from orchestrator.durable import write_atomically
from orchestrator.errors import UserError
from orchestrator.freshness import record_states
from orchestrator.plan import Plan
from orchestrator.record import Record
from orchestrator.report import drawing, html, markdown, style
from orchestrator.report.current import SUMMARY, mark
from orchestrator.report.document import Document
from orchestrator.report.links import write_links
from orchestrator.report.redraw import Redrawn, Wish
from orchestrator.report.search import figures
from orchestrator.report.search.outcome import Found
from orchestrator.report.search.sections import headline, sections
from orchestrator.report.sections import Section
from orchestrator.report.summary import Failure, Summary
from orchestrator.report.writer import provenance
from orchestrator.results import tidy, write_csv
from orchestrator.search.best import file_of
from orchestrator.store import Store

BEST = "best.py"


def write(plan: Plan, store: Store, folder: Path, *, command: str = "") -> Summary:
    """Write the whole report into `folder`, from the records there are; return what it says."""
    states = record_states(plan, store)
    records = store.records(run.id for run in plan.runs)
    found = Found.of(plan, records)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = drawing.write_all(figures.FIGURES, found, folder / "figures")
    summary = _summary(found, {name: one.caption for name, one in pictures.items()}, _shown(folder), command)
    write_csv(found.table(), folder / "points.csv")
    write_csv(tidy(plan, store), folder / "results.csv")
    _write_best(found, folder)
    scale = f" at scale {summary.scale}" if summary.scale else ""
    document = Document(f"{summary.study}{scale}", summary, headline(found), list(summary.sections), [], "Outcome")
    write_atomically(folder / "report.html", html.render(document, pictures, []), durable=False)
    write_atomically(folder / "report.md", _markdown(document), durable=False)
    write_links(plan, store, folder / "runs")
    write_atomically(folder / SUMMARY, summary.model_dump_json(indent=1), durable=False)
    mark(plan, folder, states)
    return summary


def redraw(plan: Plan, store: Store, folder: Path, wish: Wish) -> Redrawn:
    """Draw one figure again; raises UserError if there is none of this name, or nothing to draw yet."""
    if wish.arms or wish.ranks:
        raise UserError(f"{plan.study.name} is a search: --arms and --rank choose among what a comparison compares")
    if wish.figure not in figures.FIGURES:
        raise UserError(f"no figure named {wish.figure!r} of a search. Known: {', '.join(figures.FIGURES)}.")
    found = Found.of(plan, store.records(run.id for run in plan.runs))
    look = f"-{wish.look.name}" if wish.look != style.REPORT else ""
    picture = wish.out or folder / "figures" / f"{wish.figure}{look}.{wish.format}"
    with style.house_rules(wish.look):
        drawn = figures.FIGURES[wish.figure](found)
        if drawn is None:
            raise UserError(f"nothing to draw for {wish.figure} of {plan.study.name} yet; run more of its points first")
        picture.parent.mkdir(parents=True, exist_ok=True)
        style.save(drawn.figure, picture)
    write_csv(drawn.numbers, picture.with_suffix(".csv"))
    return Redrawn(picture, picture.with_suffix(".csv"), drawn.caption)


def _summary(found: Found, captions: dict[str, str], folder: str, command: str) -> Summary:
    study, objective = found.plan.study, found.search.objectives[0]
    of_method = Section(name="reproduce", title="How to reproduce", paragraphs=provenance(found.records, command))
    bad = [record for record in found.records.values() if record.status not in ("done", "pruned")]
    return Summary(
        study=study.name,
        scale=study.scale,
        description=study.description,
        metric=objective.metric,
        higher_is_better=objective.higher_is_better,
        alpha=0.05,
        margin=None,
        looks=[],
        family=0,
        method="holm",
        method_reason="",
        counted="",
        scope="",
        group_names=[],
        target="",
        counts=dict(Counter(record.status for record in found.records.values())),
        lines=[],
        differences=[],
        quotes=[],
        gap_note="",
        failures=[_failure(found.plan, record) for record in bad],
        notes=list(study.notes),
        figures=captions,
        sections=[*sections(found, captions, folder), of_method],
    )


def _failure(plan: Plan, record: Record) -> Failure:
    where = "artefacts" if record.status == "diverged" else "failures"
    ending = "" if record.status == "diverged" else f"/{record.provenance.attempt}"
    log = f"{where}/{record.id}{ending}/log.txt"
    error = record.error or ""
    return Failure(name=plan[record.id].name, run_id=record.id, status=record.status, error=error, log=log)


def _write_best(found: Found, folder: Path) -> None:
    if found.best is not None and found.plan.study.origin is not None:
        text = file_of(found.plan.study, found.best, found.usual, count=len(found.points))
        write_atomically(folder / BEST, text, durable=False)


def _shown(folder: Path) -> str:
    """Return a folder as one would type it from here."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)


def _markdown(document: Document) -> str:
    summary = document.summary
    parts: Sequence[str] = [f"# {document.title}", summary.description, document.headline]
    return "\n\n".join(parts) + "\n\n" + markdown.sections(summary.sections, summary.figures)
