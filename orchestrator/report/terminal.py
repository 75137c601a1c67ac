"""The end of a sweep on the terminal: comparison, verdicts, paths.

Made from report.json alone, so that it is there at once when nothing has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from orchestrator.report import formatting, tables
from orchestrator.report.measures import BY_KEY
from orchestrator.report.summary import Summary

NARROW = ("test_loss", "accuracy", "gap_closed")
MEDIUM = ("initial_loss", "final_loss", "test_loss", "accuracy", "gap_closed")
WIDE = ("initial_loss", "final_loss", "best_loss", "test_loss", "accuracy", "gap_closed", "energy", "share", "seconds")
COLOURS = {"supported": "green", "contradicted": "red", "equivalent": "cyan", "interim": "yellow"}
DECISIVE = ("why-no-effect", "ranks", "deviations")
"""Sections whose paragraphs are shown below the verdicts; the others are in report.md."""


@dataclass(frozen=True)
class TerminalReport:
    """A rich renderable that shows as many columns as the terminal holds."""

    summary: Summary
    folder: Path

    def show(self, console: Console) -> None:
        """Print to a console; paths stay whole, however narrow it is, so that they can be copied."""
        console.print(self, crop=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield title, comparison, verdicts, percentages, failures and paths."""
        summary, width = self.summary, options.max_width
        keys = NARROW if width < 110 else MEDIUM if width < 150 else WIDE
        scale = f" at scale {summary.scale}" if summary.scale else ""
        yield Text(f"{summary.study}{scale}: {summary.description}", style="bold")
        yield from self._verdicts()
        table = tables.comparison(summary, [BY_KEY[key] for key in keys], is_narrow=width < 110)
        yield grid(table, _untrained_rows(summary))
        yield Text(self._legend(), style="dim")
        yield from self._details()
        yield from self._failures()
        yield Text()
        for name in ("report.html", "report.md", "comparison.csv", "results.csv", "figures", "paper"):
            if (self.folder / name).exists():
                yield Text(f"{self.folder / name}", overflow="ignore", no_wrap=True)

    def _legend(self) -> str:
        target = f"; steps: median to {self.summary.target}" if self.summary.target else ""
        note = f". {self.summary.gap_note}" if self.summary.gap_note else ""
        return f"mean ± half the 95 % t interval over n runs{target}{note}"

    def _verdicts(self) -> Iterator[Text | Grid]:
        """Yield the verdict sentences, what would decide the open ones, and what the sections conclude from them."""
        if not self.summary.differences:
            return
        yield Text()
        for item in self.summary.differences:
            text = Text(item.sentence)
            text.highlight_words([item.verdict], style=f"bold {COLOURS.get(item.verdict, '')}".strip())
            yield text
        if self.summary.design_note:
            yield Text(self.summary.design_note, style="yellow")
        open_ones = [(item.decide, item.decide_why) for item in self.summary.differences if item.decide_why]
        for command, why in dict.fromkeys(open_ones):
            yield Text(f"to decide ({why}):" if command else f"not decided by any sweep: {why}")
            if command:
                yield Text(f"  {command}", overflow="ignore", no_wrap=True)
        yield Text()

    def _details(self) -> Iterator[Text | Grid]:
        """Yield the percentages, and the conclusions of the sections."""
        if not self.summary.differences:
            return
        yield Text()
        yield grid(tables.quotes(self.summary))
        yield Text("negative is lower; a lower initial loss holds by construction: a check, not evidence", style="dim")
        for section in self.summary.sections:
            if section.name in DECISIVE and section.paragraphs:
                yield Text()
                yield Text(f"{section.title}: {section.paragraphs[0]}".replace("`", ""))

    def _failures(self) -> Iterator[Text]:
        if self.summary.failures:
            yield Text()
        for item in self.summary.failures[:5]:
            status = formatting.WORDS.get(item.status, item.status)
            yield Text(f"{status}: {item.name} ({item.run_id})", style="red")
            yield Text(f"  {item.log}", overflow="ignore", no_wrap=True)
        if len(self.summary.failures) > 5:
            yield Text(f"and {len(self.summary.failures) - 5} more, in report.md", style="red")


def grid(table: tables.Table, dim: frozenset[int] = frozenset()) -> Grid:
    """Return a table of text as rich draws it, with a rule between groups."""
    drawn = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for index, title in enumerate(table.header):
        drawn.add_column(
            title,
            justify="left" if index < table.text_columns else "right",
            overflow="fold",
            no_wrap=index < table.text_columns,
        )
    for index, row in enumerate(table.rows):
        if index in table.rules:
            drawn.add_section()
        drawn.add_row(*row, style="dim" if index in dim else "")
    return drawn


def _untrained_rows(summary: Summary) -> frozenset[int]:
    return frozenset(index for index, line in enumerate(summary.lines) if line.kind != "arm")
