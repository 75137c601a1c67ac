"""One figure of a report again: for a slide or a paper's column, of some arms and ranks only, in another format.

Nothing is computed that a report did not compute: its summary is read where it is current.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.plan import Plan
from orchestrator.rehearsal import first
from orchestrator.report import figures, style
from orchestrator.report.comparison import summarise
from orchestrator.report.current import SUMMARY, is_current
from orchestrator.report.family import Family
from orchestrator.report.material import Material, Selection
from orchestrator.report.summary import Summary
from orchestrator.results import tidy, write_csv
from orchestrator.store import Store


@dataclass(frozen=True)
class Wish:
    """A figure that somebody wants: by name, of these arms and ranks (empty: all), in one look and format.

    `out` is the file to write; None: beside the report's own figures, under a name that says what was asked for.
    """

    figure: str
    arms: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    look: style.Look = style.REPORT
    format: str = "png"
    out: Path | None = None


@dataclass(frozen=True)
class Redrawn:
    """The files that were written, and the caption."""

    picture: Path
    numbers: Path
    caption: str


def redraw(plan: Plan, store: Store, folder: Path, wish: Wish) -> Redrawn:
    """Draw the figure from the records there are; raises UserError if there is no such figure, arm or rank."""
    name = _one_of("figure", wish.figure, list(figures.FIGURES))
    material = _material(plan, store, folder, wish)
    picture = wish.out or folder / "figures" / f"{_stem(name, wish)}.{wish.format}"
    with style.house_rules(wish.look):
        drawn = figures.FIGURES[name](material)
        if drawn is None:
            raise UserError(f"nothing to draw for {name} of {plan.study.name} yet; {_drawable(material, name)}")
        picture.parent.mkdir(parents=True, exist_ok=True)
        style.save(drawn.figure, picture)
    numbers = picture.with_suffix(".csv")
    write_csv(drawn.numbers, numbers)
    return Redrawn(picture, numbers, drawn.caption)


def _material(whole: Plan, store: Store, folder: Path, wish: Wish) -> Material:
    plan = first(whole)
    records = store.records(run.id for run in plan.runs)
    table = tidy(plan, store)
    if is_current(whole, store, folder):
        summary = Summary.model_validate_json((folder / SUMMARY).read_text())
    else:
        summary = summarise(plan, table, records, store)
    material = Material(plan, store, records, Family(plan.study, table), summary)
    arms = tuple(_one_of("arm", arm, material.every_arm) for arm in wish.arms)
    for rank in wish.ranks:
        if rank not in material.ranks:
            raise UserError(f"--rank {rank}: no such rank here. Known: {_listed(material.ranks)}.")
    return Material(plan, store, records, material.family, summary, Selection(arms, wish.ranks))


def _one_of(kind: str, name: str, known: Sequence[str]) -> str:
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [word for word in known if word.startswith(name)]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"no {kind} named {name!r}.{hint} Known: {_listed(known)}.")


def _drawable(material: Material, without: str) -> str:
    there = [name for name, draw in figures.FIGURES.items() if name != without and draw(material) is not None]
    return f"there is for: {_listed(there)}" if there else "run more of the study first"


def _stem(name: str, wish: Wish) -> str:
    look = wish.look.name if wish.look != style.REPORT else ""
    return "-".join(part for part in (name, look, *wish.arms, *(f"r{rank}" for rank in wish.ranks)) if part)


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names))
