"""Writing so that a reader sees the old or the new, whole, also after a power cut; and what a full disk says."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import StoreError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a full disk, and of a full quota."""
FULL_WORDS = ("database or disk is full", *(f"(os error {number})" for number in FULL))
"""What sqlite and safetensors make of it."""


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file so that a reader sees the old or the new one, whole; `durable` survives a power cut."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w") as stream:
        stream.write(text)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    beside.replace(path)


def sync_tree(folder: Path) -> None:
    """Flush every file below `folder` to disk, so that a rename never shows a name without its bytes."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: BaseException) -> bool:
    """Say whether this came of a full disk or quota; libraries of their own kind say so in words only."""
    return getattr(error, "errno", None) in FULL or any(words in str(error) for words in FULL_WORDS)


def no_space(where: Path) -> StoreError:
    """Return the mistake that a full disk is."""
    return StoreError(
        f"no space is left for the store {where}: make some, and give the same command again; nothing is lost"
    )


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an OSError into a one-line StoreError that begins with `what`."""
    try:
        yield
    except OSError as error:
        way_out = "make some, and try again" if is_full(error) else "choose another with --store DIR"
        raise StoreError(f"{what}: {error.strerror or error}; {way_out}") from None
