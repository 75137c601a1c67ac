"""The one thread that writes to MLflow: it takes events from a bounded queue, and asks a lost server again and again.

Events wait while a server does not answer. Those that find the queue full are let go: what they say is in the records
too, or will be, and MLflow is completed from those in the end. So nothing is lost with this process, nothing has to
be kept twice, and a server that is away for a week costs a few megabytes.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from orchestrator.tracking.client import heard, own_database, shown, writing_client
from orchestrator.tracking.experiment import FLUSH_S, Experiment
from orchestrator.tracking.trouble import in_words, trouble

Event: TypeAlias = Callable[[Experiment], None]
"""Something to tell the experiment; where it raises it is told again from its beginning."""

QUEUE = 20_000
"""The most events that wait, about a kilobyte each."""
LONGEST_PAUSE_S, SHORT_PAUSE_S, SHORTEST_PAUSE_S = 15.0, 2.0, 0.25
"""At most, between two tries to reach a server that is lost, or that answers some requests; and while the end waits."""
SILENT = 3
"""After so many tries without any answer in between a server is said to be lost."""
LOST_S, SLOW_S = 2.0, 12.0
"""How long the end waits for a server that is lost, and for the next answer of one that is not."""


class GivenUp(Exception):
    """The end waits no longer for a server that is lost."""


class Sender(threading.Thread):
    """Delivers events in their order, each until it has gone through."""

    def __init__(self, uri: str, open_: Callable[[Any], Experiment], tell: Callable[[str], None]) -> None:
        """Name the server. `open_` makes the experiment of a client; `tell` hears of a server lost and found again."""
        super().__init__(name="mlflow", daemon=True)
        self.uri, self.where, self.open, self.tell = uri, shown(uri), open_, tell
        self.events: queue.Queue[Event | None] = queue.Queue(QUEUE)
        self.last: Sequence[Event] = ()
        self.experiment: Experiment | None = None
        self.problem: str | None = None
        self.is_lost = self.was_lost = self.is_abandoned = False
        self.ending = threading.Event()
        self.give_up_s = float("inf")
        self._answered_s: float | None = None
        self._look_again = self._is_missed = False
        self._silent = 0
        self._flush_s = time.monotonic()

    # -- used by others ---------------------------------------------------------------------------------

    def put(self, event: Event) -> None:
        """Take an event; returns at once."""
        if self.is_alive():
            with contextlib.suppress(queue.Full):
                self.events.put_nowait(event)

    def end(self, last: Sequence[Event], patience_s: float) -> str | None:
        """Deliver what waits, then `last`; return None once it is done, else what is wrong.

        A database of our own is waited for; a server while it answers, and no longer than `patience_s` seconds.
        """
        self.last, self.give_up_s, self._ended_s = last, time.monotonic() + patience_s, time.monotonic()
        self.ending.set()
        with contextlib.suppress(queue.Full):
            self.events.put_nowait(None)  # wakes a thread that waits for events
        while self.is_alive() and not self._is_late():
            self.join(0.05)
        self.is_abandoned = True
        return self.problem or (f"no answer from {self.where}" if self.is_alive() else None)

    def _is_late(self) -> bool:
        now = time.monotonic()
        if own_database(self.uri) is not None or self._answered_s is None:
            return False
        patience_s = LOST_S if self.is_lost else SLOW_S
        return now > min(self.give_up_s, max(self._ended_s, self._answered_s) + patience_s)

    # -- the thread -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Take and deliver until the end."""
        try:
            self.client = heard(writing_client(self.uri), self._asking, self._answered)
            self._answered_s = time.monotonic()  # mlflow's import, which takes seconds, is over
            while not (self.ending.is_set() and self.events.empty()):
                self._take()
            for event in self.last:
                self._deliver(event)
        except GivenUp:
            self.problem = f"no answer from {self.where}"
        # MLflow is a view: what it refuses must not stop a sweep whose records are safe (contract C2).
        except Exception as error:
            self.problem = f"{self.where} refuses: {in_words(error)}"
            if not self.ending.is_set():
                self.tell(f"MLflow: {self.problem}; the sweep goes on without it")

    def _take(self) -> None:
        """Deliver the next event, and what has been measured for long enough."""
        with contextlib.suppress(queue.Empty):
            event = self.events.get(timeout=FLUSH_S)
            if event is not None:
                self._deliver(event)
        if time.monotonic() > self._flush_s and self.experiment is not None:
            self._deliver(Experiment.flush)
            self._flush_s = time.monotonic() + FLUSH_S

    def _deliver(self, event: Event) -> None:
        looks = 0
        for tries in itertools.count():
            try:
                self._try(event)
            except Exception as error:
                kind = trouble(error, self.uri)
                looks += kind == "changed"
                if kind == "refused" or looks > 2:
                    raise
                self._look_again = True
                if kind == "lost":
                    self._pause(error, tries)
            else:
                return

    def _try(self, event: Event) -> None:
        if self.experiment is None:
            self.experiment = self.open(self.client)
        elif self._look_again:
            self.experiment.look_again()
        self._look_again = False
        event(self.experiment)

    def _pause(self, error: Exception, tries: int) -> None:
        """Wait before the next try; whoever waits for the end is not kept waiting."""
        self._silent += 1
        self.is_lost = self.was_lost = True
        if self._silent == SILENT and not self.ending.is_set():
            self._is_missed = True
            self.tell(f"MLflow: no answer from {self.where}; the sweep goes on, and what it misses is sent later")
        longest_s = LONGEST_PAUSE_S if self._silent > 1 else SHORT_PAUSE_S
        if self.ending.wait(min(0.5 * 2**tries, longest_s)):
            if self._is_late():
                raise GivenUp from error
            time.sleep(SHORTEST_PAUSE_S)

    def _asking(self) -> None:
        if self.is_abandoned:  # another writer may be at work by now
            raise GivenUp

    def _answered(self) -> None:
        if self._is_missed:
            self._is_missed = False
            self.tell(f"MLflow: {self.where} answers again, and gets what it missed")
        self._silent, self.is_lost, self._answered_s = 0, False, time.monotonic()
