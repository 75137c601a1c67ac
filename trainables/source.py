"""Which code decides a result: a trainable's module, what it imports below `trainables/`, and the plug-ins it names.

Read off the import statements, those inside functions too, so that no list has to be kept. `base.py` is left out: it
says how a run is called and not what it computes.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent
IMPORT = re.compile(rf"^[ ]*from ({ROOT.name}[\w.]*) import (\([^)]*\)|[^\n]+)", re.M)
CONTRACT = ROOT / "base.py"


@functools.cache
def digest(module: Path, plugins: tuple[str, ...] = ()) -> str:
    """Return a digest of the code behind a module and its plug-ins: files and folders below `trainables/`."""
    named = [found for name in plugins for found in _files(ROOT / name)]
    text = hashlib.sha256()
    for file in sorted(reached([module, *named])):
        text.update(file.name.encode() + b"\0" + file.read_bytes())
    return text.hexdigest()[:16]


def reached(modules: Iterable[Path]) -> set[Path]:
    """Return these files and all below `trainables/` that they import, directly or through others."""
    found: set[Path] = set()
    waiting = list(modules)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += imported(file)
    return found


def imported(file: Path) -> set[Path]:
    """Return the files below `trainables/` that a file's own import statements name."""
    found = set()
    for module, names in IMPORT.findall(file.read_text()):
        for name in re.findall(r"\w+", re.sub(r"#[^\n]*|\bas\s+\w+", "", names)):
            found.add(_file(f"{module}.{name}") or _file(module))
    return {path for path in found if path is not None and path != CONTRACT}


def _file(module: str) -> Path | None:
    path = ROOT.parent.joinpath(*module.split("."))
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


def _files(path: Path) -> list[Path]:
    return list(path.rglob("*.py")) if path.is_dir() else [path]
