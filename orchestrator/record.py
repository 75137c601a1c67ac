"""What a run was and gave: `record.json`, its step history, and the files that it vouches for."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import StoreError
from orchestrator.identity import sha256_file

Status: TypeAlias = Literal["done", "diverged", "oom", "failed", "killed", "skipped", "pruned"]
FINAL: frozenset[str] = frozenset({"done", "diverged"})


class File(BaseModel):
    """Size in bytes and sha256 of one file of an artefact."""

    model_config = ConfigDict(frozen=True)
    size: int
    sha256: str


class Provenance(BaseModel):
    """Where and how a run executed. Nothing here enters its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    started: str = Field(description="UTC, ISO 8601")
    finished: str
    seconds: float = Field(description="wall time of the finishing attempt and of those it resumed from")
    attempt: int
    host: str
    device: str
    place: dict[str, Any]
    peak_memory_gib: float | None = None
    source: str = Field("", description="digest of the trainable's source")
    git: str = Field("", description="commit, with + if the tree was changed; empty outside a checkout")
    packages: dict[str, str] = Field(default_factory=dict)


class Record(BaseModel):
    """What a finished or failed run was and gave: `record.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    name: str
    stage: str
    trainable: str
    version: int
    config: dict[str, Any] = Field(description="the part that enters the identity")
    settings: dict[str, Any] = Field(description="the whole config as it was run")
    inputs: dict[str, str]
    labels: dict[str, Any] = Field(default_factory=dict)
    status: Status
    error: str | None = None
    metrics: dict[str, bool | int | float | str | None] = Field(default_factory=dict)
    history: dict[str, list[float | None]] = Field(default_factory=dict, description="columns; one is `step`")
    provenance: Provenance
    files: dict[str, File] = Field(default_factory=dict)

    def history_rows(self) -> Iterator[dict[str, float]]:
        """Yield the step history row by row, without the values that were not measured at that step."""
        for values in zip(*self.history.values(), strict=True):
            row = zip(self.history, values, strict=True)
            yield {name: value for name, value in row if value is not None}


def described(folder: Path) -> dict[str, File]:
    """Return size and sha256 of every file below `folder` but the record itself, by relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: File(size=path.stat().st_size, sha256=sha256_file(path))
        for name, path in names.items()
        if name != "record.json"
    }


def write_history(path: Path, record: Record) -> None:
    """Write the step history as CSV; nothing if there is none."""
    if not record.history:
        return
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(record.history)
        writer.writerows(zip(*record.history.values(), strict=True))


def columns(rows: Iterable[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Return rows of measurements as columns of equal length, `step` first; None where nothing was measured."""
    rows = list(rows)
    names = dict.fromkeys(["step", *(name for row in rows for name in row)])
    return {name: [row.get(name) for row in rows] for name in names} if rows else {}


def load(path: Path) -> Record:
    """Return the record in a file; raises FileNotFoundError, and StoreError if it is not one."""
    try:
        return Record.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise StoreError(f"is no record ({str(error).splitlines()[0]})") from None
