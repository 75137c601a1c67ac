"""One driver per store (contract C7): a file that the kernel locks, and in it who holds the store or was killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.durable import explained
from orchestrator.errors import StoreError


@dataclass(frozen=True)
class Holder:
    """A process that holds the store, or held it; `since` is Unix time."""

    pid: int
    host: str
    since: float
    command: str

    def __str__(self) -> str:
        """Say who it is, for people."""
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.since))
        return f"pid {self.pid} on {self.host} since {since} ({self.command})"


@contextlib.contextmanager
def hold(path: Path, command: str, *, wait: bool, waiting: Callable[[str], None]) -> Iterator[list[Holder]]:
    """Hold the lock in this file; raises StoreError naming the holder, or tells `waiting` and waits for it.

    The lock is the kernel's: it goes with the process, however that ends. Gives the former holders that were
    killed; those still in the list in the end are given to the next one too.
    """
    store = path.parent
    with explained(f"cannot write to the store {store}"):
        store.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+")
    with stream:
        if not _locked(stream, block=False):
            stream.seek(0)
            now = str(_holder(stream.read()))
            if not wait:
                raise StoreError(f"the store {store} is in use by {now}; wait for it with --wait")
            waiting(now)
            _locked(stream, block=True)
        stream.seek(0)
        former = _killed(stream.read())
        _rewrite(stream, [*former, Holder(os.getpid(), socket.gethostname(), time.time(), command)])
        try:
            yield former
        finally:
            _rewrite(stream, former)


def was_cut(path: Path) -> bool:
    """Say whether the last holder of the lock was killed, and nobody holds it now."""
    try:
        with path.open("r+") as stream:
            return _locked(stream, block=False) and bool(_killed(stream.read()))
    except FileNotFoundError:
        return False


def holder(path: Path) -> str | None:
    """Return who holds the lock, in words, or None.

    A file that names nobody is not touched: who watches a store must not be in the way of who begins to hold it.
    """
    try:
        with path.open("r+") as stream:
            text = stream.read()
            return None if not text or _locked(stream, block=False) else str(_holder(text))
    except FileNotFoundError:
        return None


def _locked(stream: Any, *, block: bool) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _holder(text: str) -> Holder | str:
    return next(reversed(_killed(text)), "another process")


def _killed(text: str) -> list[Holder]:
    """Return who is named in a lock file, the last holder last: if nobody holds it now, they were killed."""
    try:
        return [Holder(**about) for about in json.loads(text)]
    except (ValueError, TypeError):
        return []


def _rewrite(stream: Any, holders: Iterable[Holder]) -> None:
    stream.truncate(0)
    text = json.dumps([vars(holder) for holder in holders])
    stream.write(text if text != "[]" else "")
    stream.flush()
