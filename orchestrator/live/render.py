"""A sweep's state as a screen of a given size; pure.

Every part is a list of lines, and `laid_out` decides how many lines each may have. Where a screen is narrow, columns
of running runs are left out in the order of `COLUMNS`' importance; where it is low, runs are folded into a count.
"""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from orchestrator.live.course import TREND_CELLS
from orchestrator.live.state import Happened, Running, Stage, State
from orchestrator.progress import duration, sparkline

GAP = "  "
NAME_LEAST, NAME_WIDTH = 15, 36
"""Characters that readable names take at least and at most."""

STYLES = {
    "done": "green",
    "again": "yellow",
    "diverged": "yellow",
    "stopped": "yellow",
    "pruned": "yellow",
    "skipped": "yellow",
    "failed": "bold red",
    "oom": "bold red",
    "killed": "bold red",
    "running": "bold",
    "note": "cyan",
}
PHASES = {
    "none": "no sweep has begun in this store",
    "running": "",
    "stopping": "stopping: the running runs leave a checkpoint",
    "over": "ended",
    "cut off": "no sweep is running: the last one was cut off",
}
ALWAYS = ("done", "running", "waiting", "failed")
STATUSES = ("cached", *ALWAYS, "diverged", "pruned", "skipped", "later")
HEADS = {"later": "to be tuned"}
EVENTS_AT_LEAST = 4
NOTE_LINES = 3
"""Lines that a note may take; what happened to a run takes one, and one more for its log."""


@dataclass(frozen=True)
class Column:
    """A column of running runs: its head, its cell, and how soon it is left out on a narrow screen (1: last)."""

    head: str
    cell: Callable[[Running], str]
    importance: int
    is_left: bool = False
    style: str = ""
    needs: str = ""
    """The measurement that some run of the sweep must have had, or the column is not there."""
    least: int = 0
    """Its width where nothing needs more, so that the columns beside it keep their places."""


def _number(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else f"{value:{form}}"


def _speed(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


COLUMNS = (
    Column("", lambda run: _cut(run.name, NAME_WIDTH) + (f" ({run.attempt})" if run.attempt > 1 else ""), 1, True),
    Column("step", lambda run: f"{run.step}/{run.total}" if run.total else "starting", 2, least=8),
    Column("loss", lambda run: _number(run.loss), 3, needs="loss", least=6),
    Column("trend", lambda run: sparkline(run.trend), 6, True, "cyan", "loss", TREND_CELLS),
    Column("held-out", lambda run: _number(run.held_out), 4, needs="held-out"),
    Column("best", lambda run: _number(run.best), 8, needs="held-out", least=6),
    Column("left", lambda run: "" if run.left_s is None else duration(run.left_s), 5, least=10),
    Column("steps/s", lambda run: _speed(run.steps_per_s), 7),
    Column("tokens/s", lambda run: _speed(run.tokens_per_s), 9, needs="tokens"),
    Column("device", lambda run: run.device, 10, True, "dim"),
    Column("node", lambda run: run.node, 11, True, "dim"),
)


@dataclass(frozen=True)
class Screen:
    """A rich renderable that fills the height it is given; `hint` is the line at the bottom."""

    state: State
    hint: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield line by line."""
        for line in laid_out(self.state, self.hint, options.max_width, options.height or console.height):
            line.truncate(options.max_width, overflow="ellipsis")
            line.no_wrap = True
            yield line


def laid_out(state: State, hint: str, width: int, height: int) -> list[Text]:
    """Return the lines of a screen of this size: never more than `height`."""
    top = [*header(state, width), Text()]
    stages = stage_table(state.stages, width)
    if len(stages) + len(top) > height // 2 + 1:
        stages = [stage_line(state.stages)]
    bottom = [Text(), Text(f" {hint}", style="dim")]
    room = height - len(top) - len(stages) - len(bottom) - 2  # two empty lines before runs and events
    events = event_lines(state.events, Path(state.store), width)
    runs = running_table(state, width, max(room - min(len(events), EVENTS_AT_LEAST) - 1, 3))
    left = room - len(runs) - 1
    shown = [Text(" last events", style="dim"), *newest(events, left)] if left > 0 and events else []
    lines = [*top, *stages, Text(), *runs, Text(), *shown]
    filling = [Text()] * (height - len(lines) - len(bottom))
    return [*lines, *filling, *bottom][:height]


def header(state: State, width: int) -> list[Text]:
    """Return the title with how far it is and how long it takes, and a bar."""
    phase = PHASES[state.phase]
    if state.phase == "none":
        return [Text(f" {phase}", style="bold"), Text(f" {state.store}", style="dim")]
    left = "" if state.phase == "over" else f" · about {duration(state.left_s)} left"
    title = Text(f" {state.study}", style="bold")
    title.append(f"  {phase}" if phase else "", style="bold yellow")
    counts = f"{state.done} of {state.total} runs"
    full = f"{counts} · {duration(state.elapsed_s)}{left} "
    right = full if title.cell_len + len(full) + 2 <= width else f"{counts} "
    title.append(" " * max(width - title.cell_len - len(right), 2))
    title.append(right)
    return [title, bar(state.done, state.total, width)]


def bar(done: int, total: int, width: int) -> Text:
    """Return a bar that is full when all is done; it can be read without colours."""
    cells = max(width - 2, 1)
    full = cells * done // max(total, 1)
    return Text(" ").append("━" * full, style="green").append("─" * (cells - full), style="dim")


def stage_table(stages: Sequence[Stage], width: int) -> list[Text]:
    """Return a line per stage with its counts; statuses that no run has are left out, but for the usual ones."""
    shown = [status for status in STATUSES if status in ALWAYS or any(stage.counts.get(status) for stage in stages)]
    heads = [HEADS.get(status, status) for status in shown]
    first = max((len(stage.name) for stage in stages), default=0)
    lines = [Text(f" {'':{first}}" + "".join(f"{GAP}{head:>7}" for head in heads), style="dim")]
    for stage in stages:
        line = Text(f" {stage.name:{first}}")
        for status, head in zip(shown, heads, strict=True):
            count = stage.counts.get(status, 0)
            style = STYLES.get(status, "") if count else "dim"
            line.append(f"{GAP}{count or '·':>{max(len(head), 7)}}", style=style)
        lines.append(line)
    return lines


def stage_line(stages: Sequence[Stage]) -> Text:
    """Return all stages in one line, for a low screen: done or cached, of all."""
    parts = []
    for stage in stages:
        over = stage.counts.get("done", 0) + stage.counts.get("cached", 0)
        parts.append(f"{stage.name} {over}/{sum(stage.counts.values())}")
    return Text(" " + GAP.join(parts))


def running_table(state: State, width: int, height: int) -> list[Text]:
    """Return the running runs in at most `height` lines, with as many columns as fit `width`."""
    running = state.running
    shown = running if len(running) < height else running[: height - 2]
    columns, widths = fitting(running, state.seen, width)
    if not shown:
        return [Text(" nothing is running", style="dim")]
    heads = [column.head for column in columns]
    heads[0] = f"{len(running)} running"
    lines = [Text(" " + GAP.join(map(_aligned, heads, widths, columns)), style="dim")]
    for run in shown:
        line = Text(" ")
        for place, (column, cells) in enumerate(zip(columns, widths, strict=True)):
            line.append((GAP if place else "") + _aligned(column.cell(run), cells, column), style=column.style)
        lines.append(line)
    if len(shown) < len(running):
        lines.append(Text(f" and {len(running) - len(shown)} more", style="dim"))
    return lines


def fitting(running: Sequence[Running], seen: Collection[str], width: int) -> tuple[list[Column], list[int]]:
    """Return the columns that fit, by importance, in the order of the screen, with their widths."""
    widths = {
        column: max([column.least, len(column.head), *(len(column.cell(run)) for run in running)])
        for column in COLUMNS
        if not column.needs or column.needs in seen
    }
    first, *others = sorted(widths, key=lambda one: one.importance)
    widths[first] = max(widths[first], len(f"{len(running)} running"), NAME_LEAST)
    chosen, used = [first], 1 + widths[first] + 1  # a margin on either side
    for column in others:
        used += len(GAP) + widths[column]
        if used > width:
            break
        chosen.append(column)
    shown = [column for column in COLUMNS if column in chosen]
    return shown, [widths[column] for column in shown]


def event_lines(events: Sequence[Happened], store: Path, width: int) -> list[list[Text]]:
    """Return each event in a line, or two where it names a log, oldest first."""
    return [_event(event, store, width) for event in events]


def newest(events: Sequence[list[Text]], height: int) -> list[Text]:
    """Return the last events that fit into so many lines, the newest last."""
    chosen: list[list[Text]] = []
    for lines in reversed(events):
        if sum(map(len, chosen)) + len(lines) > height:
            break
        chosen.insert(0, lines)
    return [line for lines in chosen for line in lines]


def _event(event: Happened, store: Path, width: int) -> list[Text]:
    line = Text().append(f" {time.strftime('%H:%M:%S', time.localtime(event.at))}  ", style="dim")
    line.append(f"{event.kind:<8}  ", style=STYLES.get(event.kind, ""))
    room = max(width - line.cell_len - 1, 20)
    first, *more = textwrap.wrap(
        event.text, room, max_lines=NOTE_LINES if event.kind == "note" else 1, placeholder=" …"
    ) or [""]
    line.append(first)
    if event.log:
        more += textwrap.wrap(f"log: {shortest(store / event.log)}", room, break_on_hyphens=False)
    return [line, *(Text(f"{'':{line.cell_len - len(first)}}{one}") for one in more)]


def shortest(path: Path) -> str:
    """Return the path as one can give it from here: relative where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def _aligned(text: str, cells: int, column: Column) -> str:
    return f"{text:<{cells}}" if column.is_left else f"{text:>{cells}}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
