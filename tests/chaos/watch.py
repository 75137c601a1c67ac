"""What happens below a store's work/ and artefacts/, told by the kernel (inotify) within a fraction of a millisecond.

So a kill can come while a checkpoint is being written, or while a run commits, without a hook in what is tested.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CREATED, MOVED_TO, IS_FOLDER, OVERFLOW = 0x100, 0x80, 0x40000000, 0x4000
HEADER = struct.Struct("iIII")


@dataclass(frozen=True)
class Event:
    """A name that has appeared; `moved` if it was renamed into place."""

    path: Path
    moved: bool


class Watch:
    """Every folder below some others, those to come included."""

    def __init__(self, *folders: Path) -> None:
        """Watch these, which exist, and all below them."""
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self.folders: dict[int, Path] = {}
        for folder in folders:
            list(self._add(folder))

    def close(self) -> None:
        os.close(self.descriptor)

    def events(self, timeout_s: float) -> Iterator[Event]:
        """Yield what has happened, as soon as something has; nothing after `timeout_s` without news."""
        if not select.select([self.descriptor], [], [], timeout_s)[0]:
            return
        data, at = os.read(self.descriptor, 1 << 18), 0
        while at < len(data):
            number, mask, _, length = HEADER.unpack_from(data, at)
            name = data[at + HEADER.size : at + HEADER.size + length].rstrip(b"\0").decode()
            at += HEADER.size + length
            if mask & OVERFLOW or number not in self.folders or not name:
                continue
            path = self.folders[number] / name
            yield Event(path, moved=bool(mask & MOVED_TO))
            if mask & IS_FOLDER:
                yield from self._add(path)

    def _add(self, folder: Path) -> Iterator[Event]:
        """Watch a folder; yield what it held before that, which nobody else will tell."""
        if folder.name.startswith(".tune-"):
            return
        number = self.libc.inotify_add_watch(self.descriptor, os.fsencode(folder), CREATED | MOVED_TO)
        if number < 0:  # gone already
            return
        self.folders[number] = folder
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in sorted(folder.iterdir()):
                yield Event(path, moved=False)
                if path.is_dir():
                    yield from self._add(path)
