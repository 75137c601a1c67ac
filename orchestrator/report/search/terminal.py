"""The end of a search on the terminal: the best point, what matters, paths; from report.json alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from orchestrator.report.sections import Grid
from orchestrator.report.summary import Summary

CONCLUSIONS = ("history", "importance")
"""Sections whose first paragraph is shown."""


@dataclass(frozen=True)
class TerminalSearch:
    """A rich renderable of a written report."""

    summary: Summary
    folder: Path

    def show(self, console: Console) -> None:
        """Print to a console; paths stay whole, however narrow it is, so that they can be copied."""
        console.print(self, crop=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield title, the best point beside the usual settings, conclusions, and paths."""
        summary = self.summary
        scale = f" at scale {summary.scale}" if summary.scale else ""
        yield Text(f"{summary.study}{scale}: {summary.description}", style="bold")
        for section in summary.sections:
            if section.name == "best-point":
                yield Text()
                yield upright(section.grids[0])
            elif section.name in CONCLUSIONS and section.paragraphs:
                yield Text()
                yield Text(section.paragraphs[0])
        yield Text()
        for name in ("best.py", "report.html", "report.md", "points.csv", "figures"):
            if (self.folder / name).exists():
                yield Text(f"{self.folder / name}", overflow="ignore", no_wrap=True)


def upright(grid: Grid) -> Table:
    """Return a table of few rows and many columns turned by a quarter, so that it fits a narrow terminal."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    for _ in grid.rows:
        table.add_column(justify="right", no_wrap=True)
    for index, title in enumerate(grid.header):
        table.add_row(title, *(row[index] for row in grid.rows), style="bold" if index == 0 else "")
    return table
