"""Is a report still the one that its records would give? Known without any library that computes or draws."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from orchestrator.freshness import read_marker, record_states, write_marker
from orchestrator.plan import Plan
from orchestrator.preregistration import NAME as DESIGN
from orchestrator.store import Store

STATE, SUMMARY = "state.json", "report.json"
PAPER = ("methods.tex", "captions.tex", "tables.tex", "numbers.tex", "numbers.csv", "references.bib")
FILES = (
    "results.csv",
    "comparison.csv",
    "comparison.md",
    "comparison.tex",
    "report.md",
    "report.html",
    *(f"paper/{name}" for name in PAPER),
    SUMMARY,
)

SEARCH_FILES = ("results.csv", "points.csv", "report.md", "report.html", SUMMARY)


def is_current(plan: Plan, store: Store, folder: Path) -> bool:
    """Say whether `folder` holds the report of exactly these records, written by exactly this code."""
    files = FILES if plan.study.search is None else SEARCH_FILES
    if not all((folder / name).is_file() for name in files):
        return False
    return read_marker(folder / STATE) == _marker(plan, folder, record_states(plan, store))


def mark(plan: Plan, folder: Path, states: Mapping[str, str]) -> None:
    """Note in the folder that its report was written from these records."""
    write_marker(folder / STATE, _marker(plan, folder, states))


def _marker(plan: Plan, folder: Path, states: Mapping[str, str]) -> dict[str, str]:
    study = plan.study
    about = repr((study.name, study.scale, study.description, study.notes, study.comparison, dict(study.axes)))
    about += repr((study.search, study.origin, len(plan.points))) if study.search else ""
    names = repr([(run.id, run.name) for run in plan.runs])
    locked = b"".join(path.read_bytes() for path in [folder / DESIGN] if path.is_file())
    digests = {"study": about.encode(), "names": names.encode(), "design": locked}
    return {**states, **{name: _digest(data) for name, data in digests.items()}, "code": code_version()}


@cache
def code_version() -> str:
    """Return a digest of the code and templates that a report is made by."""
    here = Path(__file__).parent
    beside = [
        here.parent / name
        for name in ("results.py", "design.py", "replication.py", "preregistration.py", "rehearsal.py", "space.py")
    ]
    further = [path for name in ("statistics", "search") for path in (here.parent / name).rglob("*.py")]
    paths = [*here.rglob("*.py"), *here.glob("templates/*"), *beside, *further]
    return _digest(b"\0".join(path.read_bytes() for path in sorted(paths)))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
