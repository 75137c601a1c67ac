"""An adapter from any two checkpoints, without a study or a store: the output folder is all there is.

While it is in the making, everything is in the hidden folder OUT/.export; the files get their places when the last of
them is written. Finished layers stay there whatever happens, so resuming is running the same command again, and a
command with another rank goes on from the layers of the one before.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.durable import is_full, write_atomically
from orchestrator.errors import UserError
from orchestrator.estimate import available_cpus
from orchestrator.fingerprints import FilePlanner
from orchestrator.identity import differences
from orchestrator.progress import duration
from orchestrator.signals import STOPPED_BY, listening
from orchestrator.store import Store
from trainables import adapter_export
from trainables.adapter_export import AdapterExportConfig
from trainables.base import Context, InputError, Place, Progress, Stopped
from trainables.base_models import hub
from trainables.checkpoint_files import read_headers, weight_files

WORK = ".export"
SETTINGS = "settings.json"
INTERVAL_S = 5.0
"""Seconds between two lines on the layers."""
COLUMN = 12
"""Where the words of a line begin, after "164/210"."""
COUNTED = "held-out loss"
"""What a line begins with that tells of one of several like things."""


@dataclass(frozen=True)
class Checkpoint:
    """A model as the user named it: a folder, or a hub id whose files are in the hub's cache; `revision` its commit."""

    name: str
    folder: Path
    revision: str | None = None

    def content(self) -> dict[str, Any]:
        """Return what tells this checkpoint from another one in the same place, without reading 15 GB: sizes, times."""
        files = {path.name: path.stat() for path in weight_files(self.folder)}
        return {name: [about.st_size, about.st_mtime_ns] for name, about in files.items()}


def find_checkpoint(option: str, text: str) -> Checkpoint:
    """Return the model that `--base` or `--tuned` names, fetched if it is a hub's; raises InputError if there is none.

    A folder that exists goes before a hub id of the same spelling; the hub id may end in `@REVISION`.
    """
    folder = Path(text).expanduser().absolute()
    if folder.is_dir():
        read_headers(folder)
        if option == "--base" and not (folder / "config.json").is_file():
            raise UserError(f"{option} {text} has no config.json: save it with model.save_pretrained(FOLDER)")
        return Checkpoint(text, folder)
    if folder.exists():
        raise UserError(f"{option} {text} is a file: give the folder that holds it, with config.json")
    identifier, _, revision = text.partition("@")
    if text.startswith((".", "/", "~")) or not hub.IDENTIFIER.fullmatch(identifier):
        raise UserError(f"{option} {text}: no such folder {folder}, and no hub id (org/name, org/name@revision)")
    commit = hub.resolve(identifier, revision or None)
    return Checkpoint(identifier, hub.fetch(identifier, commit), commit)


@dataclass(frozen=True)
class Request:
    """One export: two checkpoints, what to make of them, where to put it and what to compute it with."""

    base: Checkpoint
    tuned: Checkpoint
    config: AdapterExportConfig
    out: Path
    device: str = "auto"
    threads: int | None = None

    @property
    def work(self) -> Path:
        """The hidden folder of an export in the making."""
        return self.out / WORK

    @property
    def inputs(self) -> dict[str, Path]:
        """The trainable's inputs."""
        return {"base_model": self.base.folder, "teacher": self.tuned.folder}

    def settings(self) -> dict[str, Any]:
        """Return what decides the result."""
        version = adapter_export.TRAINABLE.version
        checkpoints = {"base": self.base.content(), "tuned": self.tuned.content()}
        return {"version": version, **checkpoints, "config": self.config.identity()}


def check_out(out: Path) -> None:
    """Raise UserError unless `out` is new, empty, or an export of ours; the finished one is compared later."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder that is new or empty")
    if out.is_dir() and any(out.iterdir()) and not (out / WORK).is_dir() and not _finished_file(out).is_file():
        raise UserError(f"--out {out} is not empty: name a folder that is new or empty")


def execute(request: Request, say: Callable[[str], None]) -> tuple[int, dict[str, Any] | None]:
    """Make the adapter, or say that it is there already; return the exit code and the result.

    Raises InputError for what is wrong with the checkpoints, the data or the folder, and leaves no trace then, unless
    layers are finished: these are kept for the next try, and UserError says so.
    """
    check_out(request.out)
    config = adapter_export.pin(request.config, FilePlanner(Store(request.work)))
    request = Request(request.base, request.tuned, config, request.out, request.device, request.threads)
    adapter_export.check(request.config, request.inputs)
    settings = json.loads(json.dumps(request.settings()))
    finished = _finished(request, settings)
    if finished is not None:
        say(f"{request.out} is finished, with these settings: nothing to do")
        return 0, finished
    with _lock(request):
        return _run(request, settings, say)


def _finished_file(out: Path) -> Path:
    return out / adapter_export.REPORT / SETTINGS


def _finished(request: Request, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the result of the export that is in the output folder; raises UserError if it is another one."""
    path = _finished_file(request.out)
    if not path.is_file():
        return None
    known = json.loads(path.read_text(encoding="utf-8"))
    other = next(map(str, differences(known["settings"], settings)), None)
    for role in ("base", "tuned"):  # sizes and times tell a reader nothing
        if known["settings"][role] != settings[role]:
            other = f"--{role} has other files than it had, or later ones"
    if other is not None:
        raise UserError(
            f"--out {request.out} holds an export with other settings ({other}): name another folder, or delete it"
        )
    return _named(request, known["result"])


def _named(request: Request, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result: what was measured, under the names that this command uses."""
    return {"out": str(request.out), "base": request.base.name, "tuned": request.tuned.name, **metrics}


@contextlib.contextmanager
def _lock(request: Request) -> Iterator[None]:
    """Keep other processes out; leave no folder behind that holds nothing."""
    was_there = request.out.is_dir()
    try:
        request.work.mkdir(parents=True, exist_ok=True)
        stream = (request.work / "lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write to --out {request.out}: {error.strerror}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another export is writing to --out {request.out}: wait for it, or stop it") from None
        try:
            yield
        except InputError as error:
            kept = len(list(request.work.rglob("checkpoints/*/*.safetensors")))
            if kept:
                raise UserError(f"{error}; {kept} finished layers are kept in {request.work} for a next try") from None
            shutil.rmtree(request.work)
            if not was_there:
                request.out.rmdir()
            raise


def _run(
    request: Request, settings: Mapping[str, Any], say: Callable[[str], None]
) -> tuple[int, dict[str, Any] | None]:
    """Drive the trainable to its end, and give its files their places; or stop, and keep what is finished."""
    output, checkpoints = request.work / "output", request.work / "checkpoints"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    checkpoints.mkdir(exist_ok=True)
    stopped_by: list[int] = []
    lines = Lines(say)
    context = Context(
        run_id="adapter_export",
        inputs=request.inputs,
        output=output,
        checkpoints=checkpoints,
        place=place(request.device, request.threads),
        log=lines.log,
        stop_requested=lambda: bool(stopped_by),
    )
    steps = adapter_export.TRAINABLE.run(request.config, context)

    def stop(number: int) -> None:
        stopped_by.append(number)
        say("stopping: what is in hand is finished first (again to leave at once)")

    with listening(stop), _disk_space(request):
        try:
            while True:
                lines.progressed(next(steps))
        except StopIteration as end:
            metrics = dict(end.value)
        except Stopped as stopped:
            say(f"{stopped}: give the same command again")
            return STOPPED_BY[stopped_by[0]], None
        about = json.dumps({"settings": settings, "result": metrics}, indent=1)
        write_atomically(output / adapter_export.REPORT / SETTINGS, about + "\n")
    _place_files(request, output)
    say(f"done in {duration(time.monotonic() - lines.begun)}")
    return 0, _named(request, metrics)


@contextlib.contextmanager
def _disk_space(request: Request) -> Iterator[None]:
    """Turn a full disk, or a full quota, into a mistake with a way out."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise UserError(f"no space is left for --out {request.out}: make some, and try again") from None
        raise


def _place_files(request: Request, output: Path) -> None:
    """Move the adapter's files into the output folder and the report last: its settings file says that all is there."""
    for path in sorted((output / adapter_export.ADAPTER).iterdir()):
        path.replace(request.out / path.name)
    (output / adapter_export.REPORT).replace(request.out / adapter_export.REPORT)
    shutil.rmtree(request.work)


def place(device: str, threads: int | None) -> Place:
    """Return where it is computed: on all GPUs there are, or on the CPU; raises UserError for a GPU that is not."""
    gpus = adapter_export.visible_gpus() if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise UserError("--device cuda: torch sees no GPU; leave the option out to compute on the CPU")
    cpus = threads or available_cpus()
    if cpus > (os.cpu_count() or 1):
        raise UserError(f"--threads {cpus}: this machine has {os.cpu_count()} cores")
    return Place(cpus=cpus, gpus=gpus, device="cuda" if gpus else "cpu")


@dataclass
class Lines:
    """What an export says while it runs: layers done, time left by the pace so far, and each further step."""

    say: Callable[[str], None]
    begun: float = field(default_factory=time.monotonic)
    last: float = -INTERVAL_S
    first: tuple[float, int] | None = None
    now: Progress = field(default_factory=lambda: Progress(0, 0))
    has_layers: bool = False
    """True once the layers are done: what is counted then says so itself, line by line."""

    def progressed(self, progress: Progress) -> None:
        """Note a layer; every few seconds, and at the last one, say how far it is. Likewise what is counted later."""
        moment = time.monotonic()
        if progress.step < self.now.step:  # counted anew
            self.first, self.has_layers = None, True
        self.first = self.first or (moment, progress.step)
        is_new, is_last = progress != self.now, progress.step == progress.total
        self.now = progress
        if is_new and not self.has_layers and (moment - self.last >= INTERVAL_S or is_last):
            self.last = moment
            self._count("layers")

    def log(self, text: str) -> None:
        """Say one line; the report, a page of text, is in its file."""
        if "\n" in text:
            return
        if text.startswith(COUNTED):
            self._count(text)
        else:
            self.say(f"{'':{COLUMN}}{text}")

    def _count(self, text: str) -> None:
        seconds = self.seconds_left()
        left = "" if seconds is None else f", {duration(seconds)} left"
        self.say(f"{self.now.step:>4}/{self.now.total:<{COLUMN - 5}}{text}{left}")

    def seconds_left(self) -> float | None:
        """Return the time that the rest takes at the pace so far; None before the first of them and after the last.

        Layers and losses are told apart; what else follows the layers (loading, report) is in neither.
        """
        begun, step = self.first or (self.begun, 0)
        done, left = self.now.step - step, self.now.total - self.now.step
        return (time.monotonic() - begun) / done * left if done > 0 and left > 0 else None


def say(line: str) -> None:
    """Print one line of progress on stderr."""
    sys.stderr.write(f"{line.rstrip()}\n")
    sys.stderr.flush()
