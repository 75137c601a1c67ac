"""Content of files and folders as a sha256, remembered by path, size, time and inode (contract C1).

A 15 GB checkpoint is read once; afterwards `plan` looks at names, sizes and times only. The memory is a file
in the store that may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from orchestrator.durable import write_atomically
from orchestrator.errors import UserError
from orchestrator.identity import sha256_file
from orchestrator.store import Store


class Hashes:
    """The store's memory of sha256 sums."""

    def __init__(self, store: Store) -> None:
        """Read it, if there is one."""
        self.path = store.root / "fingerprints.json"
        self.known: dict[str, list[int | str]] = {}
        with contextlib.suppress(OSError, ValueError):
            self.known = json.loads(self.path.read_text())
        self.changed = False

    def sha256(self, path: Path) -> str:
        """Return the sha256 of a file; it is read unless it is, by all signs, the file that it was."""
        stat = path.stat()
        signature = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        about = self.known.get(str(path))
        if about is None or about[:-1] != signature:
            about = self.known[str(path)] = [*signature, sha256_file(path)]
            self.changed = True
        return str(about[-1])

    def save(self) -> None:
        """Keep what was learnt, if there is a store to keep it in."""
        if self.changed and self.path.parent.is_dir():
            with contextlib.suppress(OSError):
                write_atomically(self.path, json.dumps(self.known))


class FilePlanner:
    """What trainables may ask while their configs are pinned: content of files, and where paths start from."""

    def __init__(self, store: Store, directory: Path | None = None) -> None:
        """Use the store's memory of fingerprints; relative paths start from `directory` (the current one)."""
        self.hashes = Hashes(store)
        self.start = (directory or Path.cwd()).absolute()

    def directory(self) -> Path:
        """Return the folder that relative paths of the command line start from."""
        return self.start

    def fingerprint(self, path: Path) -> str:
        """Return the sha256 of a file, or of the names and contents of a folder's files (hidden ones left out)."""
        try:
            return self._folder(path) if path.is_dir() else self.hashes.sha256(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None

    def save(self) -> None:
        """Keep what was learnt, if there is a store to keep it in."""
        self.hashes.save()

    def _folder(self, path: Path) -> str:
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            relative = file.relative_to(path)
            if file.is_file() and not any(part.startswith(".") for part in relative.parts):
                digest.update(f"{relative.as_posix()}\0{self.hashes.sha256(file)}\n".encode())
        return digest.hexdigest()
