"""SIGINT, SIGTERM and SIGUSR1 as a wish to stop: the first is noted, so that work can be kept; a second leaves at once.

SIGUSR1 is what Slurm sends before a job's time is over (`--signal=B:USR1@300`).
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

STOPPED_BY = {int(number): 128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
"""The exit code of a command that a signal stopped: 128 + its number, as shells have it."""


@contextlib.contextmanager
def listening(stop: Callable[[int], None]) -> Iterator[None]:
    """Call `stop` with the number of the first signal that arrives meanwhile; KeyboardInterrupt at the next."""
    arrived = False

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal arrived
        if arrived:
            raise KeyboardInterrupt
        arrived = True
        stop(number)

    before = {number: signal.signal(number, note) for number in STOPPED_BY}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
