"""Records from a file of the user's own: JSON, JSON lines, CSV or Parquet, each with the place it came from.

A record keeps its file and line, so that whatever is wrong with it later can be said by name.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.base import InputError


@dataclass(frozen=True)
class Record:
    """The fields of one record, and where it stands ("train.json line 14 (record 3)")."""

    where: str
    fields: Mapping[str, Any]


def read_records(path: Path) -> list[Record]:
    """Return the records of a file, in its order; raises InputError naming file and line."""
    if not path.exists():
        raise InputError(f"no file {path}: check the path (relative ones start where the command was given)")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give one file ({', '.join(READERS)})")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path.name}: cannot read {path.suffix or 'a file without suffix'}; known: {', '.join(READERS)}"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: give a file with records")
    try:
        records = list(reader(path))
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied") from None
    if not records:
        raise InputError(f"{path} holds no records: give a file with at least three")
    return records


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{content[error.start]:02x}"
        raise InputError(
            f"{path.name} line {line}: {byte} is not UTF-8; convert the file, as with: iconv -f latin1 -t utf-8"
        ) from None


def _read_json(path: Path) -> Iterator[Record]:
    """Yield the records of a JSON list, decoded one by one because each is named by its line."""
    text, decoder = _text(path), json.JSONDecoder()
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        hint = "JSON lines belong into a .jsonl file" if text[at : at + 1] == "{" else "it must start with ["
        raise InputError(f"{path.name} line 1: not a JSON list of records; {hint}")
    at, line, counted, number = _skip(text, at + 1), 1, 0, 0
    while text[at : at + 1] != "]":
        line, counted, number = line + text.count("\n", counted, at), at, number + 1
        where = f"{path.name} line {line} (record {number})"
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise InputError(f"{path.name} line {error.lineno} (record {number}): not JSON ({error.msg})") from None
        yield Record(where, _fields(value, where))
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise InputError(f"{where}: not JSON after it (a comma or the closing ] is missing): is the file cut off?")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _read_json_lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            hint = "; a JSON list belongs into a .json file" if number == 1 and line.lstrip().startswith("[") else ""
            raise InputError(f"{where}: not JSON ({error.msg} at column {error.colno}){hint}") from None
        yield Record(where, _fields(value, where))


def _fields(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: holds {_kind(value)} instead of an object with named fields")
    return value


def _kind(value: Any) -> str:
    return {str: "text", list: "a list", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def _read_csv(path: Path) -> Iterator[Record]:
    reader = csv.reader(_text(path).splitlines(keepends=True), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InputError(f"{path.name} line 1: a column is named twice ({', '.join(header)})")
        start = reader.line_num + 1
        for row in reader:
            where, start = f"{path.name} line {start}", reader.line_num + 1
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(f"{where}: {len(row)} values for {len(header)} columns; quote values that hold commas")
            yield Record(where, dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path.name} line {reader.line_num}: not CSV ({error})") from None


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path.name}: no Parquet file, or a damaged one ({reason}): copy it again") from None
    for number, row in enumerate(rows, start=1):
        yield Record(f"{path.name} row {number}", row)


READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
