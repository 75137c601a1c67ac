"""Drives one trainable without a backend: pin, check, run to the end, in folders of the test's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trainables
from trainables.base import Config, Context, Member, Metrics, Place, Progress, Trainable


@dataclass
class FolderPlanner:
    """A planner that fingerprints files afresh each time; relative paths start from `folder`."""

    folder: Path
    asked: list[Path] = field(default_factory=list)

    def fingerprint(self, path: Path) -> str:
        self.asked.append(path)
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
        digest = hashlib.sha256()
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()

    def directory(self) -> Path:
        return self.folder


@dataclass
class Driven:
    """What a run gave: its final metrics, every yield, the lines it logged."""

    metrics: Metrics = field(default_factory=dict)
    progress: list[Progress] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    context: Context | None = None

    def column(self, name: str) -> list[float]:
        """The values of one metric in the order of the steps, where it was measured."""
        return [item.metrics[name] for item in self.progress if name in item.metrics]


def prepare(
    trainable: str | Trainable, config: Config | Mapping[str, Any], inputs: Mapping[str, Path], directory: Path
) -> Config:
    """Validate, pin and check a config as planning does."""
    found = trainables.find(trainable) if isinstance(trainable, str) else trainable
    typed = config if isinstance(config, Config) else found.config.model_validate(dict(config))
    pinned: Config = found.pin(typed, FolderPlanner(directory))
    found.check(pinned, inputs)
    return pinned


def execute(
    trainable: str | Trainable,
    config: Config | Mapping[str, Any],
    folder: Path,
    *,
    inputs: Mapping[str, Path] | None = None,
    place: Place | None = None,
    directory: Path | None = None,
    resume_from: Path | None = None,
    stop_after: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    into: Driven | None = None,
    member: Member | None = None,
) -> Driven:
    """Run a trainable to its end and return all it gave.

    `folder` becomes the artefact; checkpoints go to the folder `FOLDER.checkpoints` beside it. With `stop_after=N`
    a stop is requested after the Nth yield, so that `Stopped` comes out; give `into` to keep what was seen by then.
    """
    found = trainables.find(trainable) if isinstance(trainable, str) else trainable
    driven = Driven() if into is None else into
    checkpoints = folder.with_name(f"{folder.name}.checkpoints")
    for path in (folder, checkpoints):
        path.mkdir(parents=True, exist_ok=True)
    context = Context(
        run_id=f"{found.name}-000000000000",
        inputs=dict(inputs or {}),
        output=folder,
        checkpoints=checkpoints,
        place=place or Place(),
        resume_from=resume_from,
        log=driven.lines.append,
        stop_requested=lambda: stop_after is not None and len(driven.progress) >= stop_after,
        member=member,
    )
    driven.context = context
    steps = found.run(prepare(found, config, context.inputs, directory or folder.parent), context)
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            driven.metrics = end.value
            return driven
        driven.progress.append(progress)
        if on_progress is not None:
            on_progress(progress)


def drive(
    trainable: str | Trainable,
    config: Config | Mapping[str, Any],
    folder: Path,
    *,
    inputs: Mapping[str, Path] | None = None,
    place: Place | None = None,
    **options: Any,
) -> Metrics:
    """Run a trainable to its end and return its final metrics; `options` are those of `execute`."""
    return execute(trainable, config, folder, inputs=inputs, place=place, **options).metrics
