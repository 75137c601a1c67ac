"""Files that outlast a power cut, and second names of them that cost no disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def flush(path: Path) -> None:
    """Flush a file, or a folder's own entries, to disk, so that its name never shows without its bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(source: Path, target: Path) -> None:
    """Make `target` another name of the file, or a copy where the file system has no links.

    Raises FileNotFoundError if the source has gone.
    """
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
