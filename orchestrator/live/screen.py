"""The terminal while the screen is up: what is drawn goes to it, all else that is printed to a file in the store.

The screen is the terminal's second one, so that what was there before comes back when it ends. Whatever prints, down
to C++ and child processes, would tear it: file descriptors 1 and 2, where they are this terminal, lead to `sweep.log`
meanwhile. Lines that Python writes to stderr are also told as events, and printed once more when the screen has gone.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console, ConsoleDimensions
from rich.live import Live

from orchestrator.live.render import Screen, shortest
from orchestrator.live.state import State

LOG = "sweep.log"
REFRESH_HZ = 2.0
DUMB = ("", "dumb", "unknown")


def suits(stream: TextIO) -> bool:
    """Say whether a screen can be shown on this stream: a terminal that can, of somebody who is there to look."""
    is_utf8 = (getattr(stream, "encoding", "") or "").lower().replace("-", "") == "utf8"
    return stream.isatty() and is_utf8 and os.environ.get("TERM", "") not in DUMB and not os.environ.get("CI")


class Drawn(Live):
    """A live display that fills a terminal, whatever its size at the moment."""

    def __init__(self, stream: TextIO, state: Callable[[], State], hint: str, *, auto_refresh: bool = True) -> None:
        """Draw what `state` returns, with a hint at the bottom, again and again by a thread, or at each `refresh`.

        `stream` is the terminal.
        """
        self.stream, self.state, self.hint = stream, state, hint
        console = Console(file=stream, force_terminal=True, highlight=False, emoji=False, markup=False)
        super().__init__(
            console=console,
            screen=True,
            auto_refresh=auto_refresh,
            refresh_per_second=REFRESH_HZ,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self.drawn,
        )

    def __enter__(self) -> Drawn:
        """Begin to draw."""
        self.start(refresh=True)
        return self

    def drawn(self) -> Screen:
        """Return what is to be drawn now."""
        with contextlib.suppress(OSError):
            columns, rows = os.get_terminal_size(self.stream.fileno())
            self.console.size = ConsoleDimensions(columns or 80, rows or 24)  # 0: a terminal that was told no size
        return Screen(self.state(), self.hint)


class Terminal:
    """Holds the terminal of stderr for a screen; `tell` is given the lines that are printed to stderr meanwhile."""

    def __init__(self, store: Path, tell: Callable[[str], None]) -> None:
        """Take the store, for the log."""
        self.path, self.tell = store / LOG, tell
        self.told: list[str] = []

    def __enter__(self) -> Terminal:
        """Turn away from the terminal all that is not drawn."""
        sys.stdout.flush()
        sys.stderr.flush()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self.log = io.TextIOWrapper(io.FileIO(descriptor, "w"), encoding="utf-8", write_through=True)
        self.stream = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        self.saved = {number: os.dup(number) for number in (1, 2) if os.isatty(number)}
        for number in self.saved:
            os.dup2(descriptor, number)
        self.stderr, sys.stderr = sys.stderr, Captured(self._hear, self.log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back, and print what was told meanwhile."""
        sys.stdout.flush()
        sys.stderr = self.stderr
        for number, saved in self.saved.items():
            os.dup2(saved, number)
            os.close(saved)
        with contextlib.suppress(OSError):
            self.stream.close()
        self.log.close()
        for line in dict.fromkeys(self.told):
            sys.stderr.write(f"{line}\n")

    @contextlib.contextmanager
    def live(self, state: Callable[[], State]) -> Iterator[None]:
        """Show what `state` returns."""
        hint = f"Ctrl-C stops, keeping checkpoints · log: {shortest(self.path)}"
        drawn = Drawn(self.stream, state, hint)
        drawn.start(refresh=True)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the terminal may have gone meanwhile
                drawn.stop()

    def _hear(self, line: str) -> None:
        self.told.append(line)
        self.tell(line)


class Captured(io.TextIOBase):
    """A stream whose whole lines are told; what is rewritten in place, as progress bars are, only goes to the log."""

    def __init__(self, hear: Callable[[str], None], log: TextIO) -> None:
        """Take who is told, and the log."""
        self.hear, self.log, self.rest = hear, log, ""

    def write(self, text: str) -> int:
        """Take text; tell the lines that have become whole."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if "\r" in line:
                self.log.write(f"{line}\n")
            elif line.strip():
                self.hear(line.rstrip())
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor that leads to the log."""
        return 2

    def isatty(self) -> bool:
        """Say that this is no terminal."""
        return False
