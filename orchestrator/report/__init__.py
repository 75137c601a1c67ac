"""The report of a study: tables, figures and verdicts, made from records alone and made again only when they change.

    write(plan, store, folder)      report.html, report.md, report.json, tables, figures, links, paper/
    is_current(plan, store, folder) whether there is nothing to write
    terminal_table(folder)          what ends a sweep on the terminal, from report.json

Only `write` loads pandas, scipy and matplotlib.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.report.current import SUMMARY, is_current

if TYPE_CHECKING:
    from orchestrator.plan import Plan
    from orchestrator.report.search.terminal import TerminalSearch
    from orchestrator.report.summary import Summary
    from orchestrator.report.terminal import TerminalReport
    from orchestrator.store import Store

__all__ = ["is_current", "read", "report_folder", "terminal_table", "write"]


def report_folder(plan: Plan, store: Store) -> Path:
    """Return where a study's report goes."""
    return store.reports / plan.study.name


def write(plan: Plan, store: Store, folder: Path, *, command: str = "") -> Summary:
    """Write the report of the records there are into `folder`; return what it says.

    `command` is named in report.md as the way to make it again. Failed, skipped and pending runs are shown as such.
    """
    if plan.study.search is not None:
        from orchestrator.report.search import writer as of_search

        return of_search.write(plan, store, folder, command=command)
    from orchestrator.report import writer

    return writer.write(plan, store, folder, command=command)


def read(folder: Path) -> Summary:
    """Return what a written report says; FileNotFoundError if there is none."""
    from orchestrator.report.summary import Summary

    return Summary.model_validate_json((folder / SUMMARY).read_text())


def terminal_table(folder: Path, *, is_search: bool = False) -> TerminalReport | TerminalSearch:
    """Return the rich renderable of a written report, without computing anything again."""
    if is_search:
        from orchestrator.report.search.terminal import TerminalSearch

        return TerminalSearch(read(folder), folder)
    from orchestrator.report.terminal import TerminalReport

    return TerminalReport(read(folder), folder)
