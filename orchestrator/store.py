"""Artefact folders: begin, commit, find, verify. The store is the truth (contract C2).

A run appears in `artefacts/ID` by one atomic rename, with its `record.json`, or not at all. Attempts write to
`work/ID/ATTEMPT`. Only the newest attempt may commit, so that a worker cut off by the network cannot overwrite its
successor (contract C8): who begins an attempt first takes the outputs of earlier ones out of their places, so that the
one rename of a worker that was frozen just before it finds nothing to rename, and the file system refuses a commit
onto a finished run.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator import driver_lock
from orchestrator.driver_lock import Holder
from orchestrator.durable import explained, sync_folder, sync_tree, write_atomically
from orchestrator.errors import StoreError
from orchestrator.identity import sha256_file
from orchestrator.record import File, Record, described, load, write_history

RUN_ID = re.compile(r"[a-z][a-z0-9_]*-[0-9a-f]{12}")
CHECKPOINT = re.compile(r"step-(\d+)")
LOCK = "driver.lock"
MISSING = "is missing"
ASIDE = ("log.txt", "history.csv")
"""Files of an artefact that no run reads and that no result is in (the history is in the record too)."""


@dataclass(frozen=True)
class Attempt:
    """One try at a run: `folder` is work/ID/NUMBER, with `output/` and `checkpoints/` in it."""

    run_id: str
    number: int
    folder: Path
    resume_from: Path | None

    @property
    def output(self) -> Path:
        """The folder that becomes the artefact."""
        return self.folder / "output"

    @property
    def checkpoints(self) -> Path:
        """The folder for this attempt's checkpoints, each named `step-N` and renamed into place."""
        return self.folder / "checkpoints"


class Superseded(Exception):
    """A newer attempt at this run exists, or it is finished: this one may not commit."""


class Store:
    """The artefacts, attempts and failures below one folder. Creates nothing until something is begun."""

    def __init__(self, root: Path) -> None:
        """Name the folder; it need not exist."""
        self.root = root.absolute()
        self.artefacts, self.work, self.failures = (self.root / name for name in ("artefacts", "work", "failures"))
        self.reports = self.root / "reports"

    # -- looking ----------------------------------------------------------------------------------------

    def artefact(self, run_id: str) -> Path:
        """Return the folder of a finished run, whether it exists or not."""
        return self.artefacts / checked(run_id)

    def is_finished(self, run_id: str) -> bool:
        """Say whether the run has a record: done or diverged, never to be executed again."""
        return (self.artefact(run_id) / "record.json").is_file()

    def record(self, run_id: str) -> Record | None:
        """Return a run's record: the finished one, else that of its last failed attempt, else None.

        A record that cannot be read is none: `flaws` says so.
        """
        for path in (self.artefact(run_id), *reversed(_numbered(self.failures / run_id))):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, StoreError):
                return load(path / "record.json")
        return None

    def records(self, run_ids: Iterable[str]) -> dict[str, Record]:
        """Return the records that exist among `run_ids`."""
        found = ((run_id, self.record(run_id)) for run_id in run_ids)
        return {run_id: record for run_id, record in found if record is not None}

    def ids(self) -> list[str]:
        """Return the ids of all finished runs, sorted."""
        if not self.artefacts.is_dir():
            return []
        return sorted(path.name for path in self.artefacts.iterdir() if RUN_ID.fullmatch(path.name))

    def failed_ids(self) -> list[str]:
        """Return the ids of runs that left a failure and are not finished, sorted."""
        if not self.failures.is_dir():
            return []
        return sorted(path.name for path in self.failures.iterdir() if not self.is_finished(path.name))

    def last_checkpoint(self, run_id: str) -> int | None:
        """Return the step of the newest checkpoint that an unfinished attempt at the run left, or None."""
        newest = self._newest_checkpoint(run_id)
        return None if newest is None else _step(newest)

    def _newest_checkpoint(self, run_id: str) -> Path | None:
        found = (path for attempt in _numbered(self.work / run_id) for path in _checkpoints(attempt / "checkpoints"))
        return max(found, key=_step, default=None)

    # -- one run ----------------------------------------------------------------------------------------

    def begin(self, run_id: str) -> Attempt:
        """Open the next attempt at a run; it resumes from the newest checkpoint that any earlier one left.

        From now on no earlier attempt can commit, wherever its worker is.
        """
        home = self.work / checked(run_id)
        earlier = _numbered(home)
        last = max((int(path.name) for path in [*earlier, *_numbered(self.failures / run_id)]), default=0)
        attempt = Attempt(run_id, last + 1, home / str(last + 1), self._newest_checkpoint(run_id))
        with explained(f"cannot write to the store {self.root}"):
            for path in earlier:
                with contextlib.suppress(FileNotFoundError):
                    (path / "output").rename(path / "superseded")
            attempt.output.mkdir(parents=True)
            attempt.checkpoints.mkdir()
        return attempt

    def commit(self, attempt: Attempt, record: Record) -> Record:
        """Make the attempt's output the artefact, by one rename; return the record with its files.

        Raises Superseded if a newer attempt exists or the run is finished already.
        """
        self.refuse_superseded(attempt)
        write_history(attempt.output / "history.csv", record)
        record = record.model_copy(update={"files": described(attempt.output)})
        write_atomically(attempt.output / "record.json", record.model_dump_json(indent=1))
        sync_tree(attempt.output)
        self.artefacts.mkdir(exist_ok=True)
        self.refuse_superseded(attempt)
        try:
            attempt.output.rename(self.artefacts / attempt.run_id)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise Superseded(f"{attempt.run_id} is finished already, or this attempt has a successor") from None
            raise
        sync_folder(self.artefacts)
        self.forget_work(attempt.run_id)
        return record

    def fail(self, attempt: Attempt, record: Record) -> Path:
        """Keep what a failed attempt left (log, config, error) in failures/ID/NUMBER; return that folder.

        Its checkpoints stay in work/, for the next attempt.
        """
        self.refuse_superseded(attempt)
        folder = self.failures / attempt.run_id / str(attempt.number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path in attempt.output.glob("*.txt"):
            shutil.copy2(path, folder / path.name)
        write_history(folder / "history.csv", record)
        write_atomically(folder / "record.json", record.model_dump_json(indent=1))
        return folder

    def forget_work(self, run_id: str) -> None:
        """Delete the attempts of a run, checkpoints included."""
        shutil.rmtree(self.work / checked(run_id), ignore_errors=True)

    def forget(self, run_id: str) -> None:
        """Delete a run: artefact, attempts and failures. It will be executed again."""
        aside = self.work / checked(run_id) / "forgotten"
        if self.artefact(run_id).exists():
            aside.parent.mkdir(parents=True, exist_ok=True)
            self.artefact(run_id).rename(aside)
        shutil.rmtree(self.failures / run_id, ignore_errors=True)
        self.forget_work(run_id)

    def refuse_superseded(self, attempt: Attempt) -> None:
        """Raise Superseded if a newer attempt exists or the run is finished."""
        newest = max((int(path.name) for path in _numbered(self.work / attempt.run_id)), default=0)
        if newest != attempt.number or self.is_finished(attempt.run_id):
            raise Superseded(f"attempt {attempt.number} at {attempt.run_id} has a successor")

    # -- the whole store --------------------------------------------------------------------------------

    def flaws(
        self, run_id: str, sha256: Callable[[Path], str] | None = None, *, record: Record | None = None
    ) -> dict[str, str]:
        """Return what is wrong with each file of an artefact ("has 12 bytes instead of 1340"), by its name.

        Sizes are looked at, and contents with `sha256`. Empty for a run that has no artefact. A `record` that the
        caller has read already is not read again.
        """
        folder = self.artefact(run_id)
        if not folder.is_dir():
            return {}
        try:
            record = record or load(folder / "record.json")
        except FileNotFoundError:
            return {"record.json": MISSING}
        except StoreError as error:
            return {"record.json": str(error)}
        found = ((name, _flaw(folder / name, file, sha256)) for name, file in record.files.items())
        return {name: flaw for name, flaw in found if flaw}

    def altered(self, run_id: str) -> dict[str, str]:
        """Return what is wrong with the artefact's files, looking at the contents of only those touched since."""
        path = self.artefact(run_id) / "record.json"
        try:
            written, record = path.stat().st_mtime_ns, load(path)
        except (FileNotFoundError, StoreError):
            return self.flaws(run_id) or {path.name: MISSING}
        known = {self.artefact(run_id) / name: file.sha256 for name, file in record.files.items()}
        return self.flaws(run_id, lambda path: known[path] if path.stat().st_mtime_ns <= written else sha256_file(path))

    def lock(
        self, command: str, *, wait: bool = False, waiting: Callable[[str], None] = lambda holder: None
    ) -> contextlib.AbstractContextManager[list[Holder]]:
        """Hold the store as its one driver (contract C7); see `driver_lock.hold`."""
        return driver_lock.hold(self.root / LOCK, command, wait=wait, waiting=waiting)

    def was_cut(self) -> bool:
        """Say whether the last driver of the store was killed, and nobody holds it now."""
        return driver_lock.was_cut(self.root / LOCK)

    def holder(self) -> str | None:
        """Return who holds the store ("pid 12 on node1, since ...: sweep rank_study"), or None."""
        return driver_lock.holder(self.root / LOCK)


def checked(run_id: str) -> str:
    """Return the id if it is one; what is not never becomes a path (contract C10)."""
    if not RUN_ID.fullmatch(run_id):
        raise StoreError(f"{run_id!r} is not a run id (like student-3f9c02ab71d4)")
    return run_id


def _flaw(path: Path, expected: File, sha256: Callable[[Path], str] | None) -> str:
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    if size != expected.size:
        return f"has {size} bytes instead of {expected.size}"
    is_changed = sha256 is not None and sha256(path) != expected.sha256
    return "has changed: its sha256 is not the recorded one" if is_changed else ""


def _numbered(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if CHECKPOINT.fullmatch(path.name)] if folder.is_dir() else []
