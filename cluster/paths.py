"""Where this process finds its modules, for the processes that it starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def own_paths() -> list[str]:
    """Return where this process finds modules beside the installed ones: Ray itself passes on two of these only."""
    folders = [Path(entry or ".").absolute() for entry in sys.path]
    installed = (Path(sys.prefix), Path(sys.base_prefix))
    return [str(folder) for folder in folders if folder.is_dir() and not set(installed) & {folder, *folder.parents}]


def python_path() -> str:
    """Return the PYTHONPATH with which another process finds what this one finds."""
    paths = [*own_paths(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(paths))
