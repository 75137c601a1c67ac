"""Answers on a terminal: a table with a column per subject where it fits, else question by question.

What a model says is text from outside: it is shown without control characters, which could command the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from orchestrator.report import formatting
from orchestrator.report.answers.sides import Only, Question, SideBySide, Subject
from orchestrator.report.formatting import NOTHING

LONGEST_CELL = 36
"""Characters of a question or an answer up to which a column per subject is tried."""
LONGEST_BLOCK = 480
"""Characters of an answer that are shown below a question; of a longer one its beginning and its end."""
RIGHT, WRONG = "✓", "✗"


@dataclass(frozen=True)
class TerminalAnswers:
    """One group's answers as rich draws them: who is right how often, then at most `limit` questions."""

    sides: SideBySide
    limit: int
    only: Only | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the counts, the questions, and how to see others."""
        sides, chosen = self.sides, self.sides.only(self.only)
        where = formatting.group(sides.group)
        yield Text(f"{where[:1].upper()}{where[1:]}: " if where else "", style="bold", end="")
        yield Text(f"{len(sides.questions)} questions", style="bold")
        yield self._counts()
        yield Text()
        shown = chosen[: self.limit]
        table = self._table(shown)
        fits = console.measure(table, options=options.update(max_width=10_000)).maximum <= options.max_width
        is_short = all(len(cell) <= LONGEST_CELL for cell in self._cells(shown))
        yield from [table] if shown and fits and is_short else self._blocks(shown)
        yield Text(self._rest(len(shown), len(chosen)), style="dim")

    def _counts(self) -> Grid:
        sides = self.sides
        drawn = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
        drawn.add_column("")
        for title in ("runs", "right", f"gains on {sides.baseline}", "loses"):
            drawn.add_column(title, justify="right")
        for row in counts(sides):
            drawn.add_row(*row)
        return drawn

    def _cells(self, shown: Sequence[Question]) -> Iterator[str]:
        for question in shown:
            yield question.text
            for subject in self.sides.subjects:
                yield from (told.given for told in subject.told.get(question.key, [])[:1])

    def _table(self, shown: Sequence[Question]) -> Grid:
        drawn = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
        for title in ("question", "reference", *(subject.label for subject in self.sides.subjects)):
            drawn.add_column(title, no_wrap=True)
        for question in shown:
            cells = (_marked(subject, question) for subject in self.sides.subjects)
            drawn.add_row(Text(plain(question.text)), Text(plain(question.reference)), *cells)
        return drawn

    def _blocks(self, shown: Sequence[Question]) -> Iterator[Text | Grid]:
        for question in shown:
            yield Text(plain(question.text), style="bold")
            drawn = Grid(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
            drawn.add_column(no_wrap=True, justify="right")
            drawn.add_column(no_wrap=True)
            drawn.add_column(overflow="fold")
            drawn.add_row("", Text("reference", style="dim"), Text(shortened(plain(question.reference))))
            for subject in self.sides.subjects:
                given = subject.told.get(question.key)
                text = shortened(plain(given[0].given)) if given else NOTHING
                drawn.add_row(_mark(subject, question), Text(subject.label, style="dim"), Text(text))
            yield drawn
            yield Text()

    def _rest(self, shown: int, chosen: int) -> str:
        several = (
            " Where there are several runs, the answer is the first one's; 1/2: one of two is right."
            if self._has_runs()
            else ""
        )
        what = f"{shown} of {chosen} questions" + (f" ({self.only})" if self.only else "")
        more = f"; more with --items {chosen}" if shown < chosen else ""
        others = "" if self.only else "; --only gained, lost or differing"
        return f"{what}{more}{others}.{several}"

    def _has_runs(self) -> bool:
        return any(subject.runs > 1 for subject in self.sides.subjects)


def counts(sides: SideBySide) -> Iterator[list[str]]:
    """Yield a row per subject: label, runs, "10.5 of 40" right, and the questions that it gains and loses."""
    for subject in sides.subjects:
        right, asked = subject.right(sides.questions)
        changes = ["", ""]
        if subject in sides.arms:
            changes = [str(len(sides.gained(subject))), str(len(sides.lost(subject)))]
        yield [subject.label, str(subject.runs), f"{right:.4g} of {asked}", *changes]


def plain(text: str) -> str:
    """Return the text on one line, without what a terminal would take for a command."""
    text = " ".join(text.split())
    return "".join(character if character.isprintable() else "�" for character in text)


def shortened(text: str, longest: int = LONGEST_BLOCK) -> str:
    """Return the text, or its beginning and its end: that is where an answer says what it is."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half].rstrip()} … {text[-half:].lstrip()}"


def mark(subject: Subject, question: Question) -> str:
    """Return ✓ or ✗, or "1/2" where some of several runs are right; a dash where none was asked."""
    told = subject.told.get(question.key)
    if not told:
        return NOTHING
    right = sum(item.is_right for item in told)
    return RIGHT if right == len(told) else WRONG if right == 0 else f"{right}/{len(told)}"


def _mark(subject: Subject, question: Question) -> Text:
    said = mark(subject, question)
    return Text(said, style={RIGHT: "green", WRONG: "red", NOTHING: "dim"}.get(said, "yellow"))


def _marked(subject: Subject, question: Question) -> Text:
    told = subject.told.get(question.key)
    return Text.assemble(_mark(subject, question), " ", plain(told[0].given) if told else "")
