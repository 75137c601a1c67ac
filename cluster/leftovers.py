"""What a driver that was killed has left behind: Ray's folder of its session, and Tune's of its sweep.

Ray names the folder after the driver's process, and the store's lock remembers that process; so only what a driver of
this store left is ever touched, and nothing in which a process still lives.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.driver_lock import Holder
from orchestrator.store import Store

FOLDER = ".tune-"
"""Tune's own files of a sweep lie in a folder of this prefix below the store's work/, and go with the sweep."""

SESSION = re.compile(r"session_(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)_\d+_(\d+)")
"""Ray's name for a session's folder: when the driver started it, to the microsecond, and the driver's process."""


def clear(store: Store, former: list[Holder]) -> None:
    """Remove what former drivers of the store, all gone, have left on this machine; call it with the lock held.

    Those stay in `former` in whose sessions something still lives.
    """
    remove_tune_folders(store)
    here = socket.gethostname()
    former[:] = [one for one in former if one.host == here and not _remove_sessions(one)]


def remove_tune_folders(store: Store) -> None:
    """Remove Tune's files of sweeps that are over."""
    for stale in store.work.glob(f"{FOLDER}*"):
        shutil.rmtree(stale, ignore_errors=True)


def _remove_sessions(driver: Holder) -> bool:
    """Remove the sessions of a driver that is gone; say whether none is left."""
    folders = list(_sessions(driver))
    lines = _command_lines() if folders else []
    for folder in folders:
        if not any(folder.name in line for line in lines):
            shutil.rmtree(folder, ignore_errors=True)
    return not any(folder.exists() for folder in folders)


def _sessions(driver: Holder) -> Iterator[Path]:
    roots = {os.environ.get(name, "/tmp") for name in ("RAY_TMPDIR", "TMPDIR")}  # noqa: S108 - where Ray puts them
    for folder in (path for root in roots for path in Path(root, "ray").glob(f"session_*_{driver.pid}")):
        found = SESSION.fullmatch(folder.name)
        if found and time.mktime(time.strptime(found[1], "%Y-%m-%d_%H-%M-%S")) >= int(driver.since):
            yield folder


def _command_lines() -> list[str]:
    """Return the command line of every process: those of a session name its folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().decode(errors="replace"))
    return lines
