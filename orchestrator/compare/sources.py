"""Where a table comes from: CSV, JSON lines, a JSON list, or an MLflow experiment; all become rows of plain values."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.compare.request import Request
from orchestrator.errors import UserError

Plain: TypeAlias = str | float | int | bool | None

MISSING = frozenset({"", "-", "–", "na", "n/a", "none", "null"})
"""Texts that stand for no value, in any case; "nan" is a number that is none: a run that diverged, as a rule."""
WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")
NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
"""A text with leading zeros (007) is a name."""
DELIMITERS = (",", "\t", ";")
DATABASE = Path("runs", "mlflow.db")
"""Where `sweep` keeps MLflow's data by default."""


@dataclass(frozen=True)
class Row:
    """One row: its place in words ("line 14") and its cells."""

    place: str
    cells: Mapping[str, Plain]


@dataclass(frozen=True)
class Rows:
    """All rows of a table, and its columns in the order they come."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read(request: Request) -> Rows:
    """Return the rows of the request's table; raises UserError where there is none, or it cannot be read."""
    if is_tracking(request.table):
        return _table(request.table, _mlflow(request))
    path = Path(request.table).expanduser()
    if not path.is_file():
        raise UserError(
            f"{request.table}: no such file; give a .csv, .tsv, .json or .jsonl file, mlflow:EXPERIMENT, "
            "or a tracking URI as sqlite:///mlflow.db#EXPERIMENT"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{request.table}: not UTF-8 text; save it as a CSV or JSON lines file") from None
    kind = path.suffix.lower()
    readers = {".json": _json, ".jsonl": _json_lines, ".ndjson": _json_lines}
    if kind in readers:
        return _table(request.table, readers[kind](request.table, text))
    titles = _titles(request.table, text)
    return _table(request.table, _csv(request, text, titles), titles)


def is_tracking(table: str) -> bool:
    """Say whether a table is MLflow's: `mlflow:EXPERIMENT`, or a tracking URI."""
    return table.startswith("mlflow:") or "://" in table


def plain(text: str) -> Plain:
    """Return a cell's text as a number where it is one (4.0 is 4), None where it stands for no value."""
    text = text.strip()
    if text.lower() in MISSING:
        return None
    if WHOLE.fullmatch(text):
        return int(float(text)) if "." in text else int(text)
    return float(text) if NUMBER.fullmatch(text) else text


def _table(name: str, rows: Iterable[Row], titles: Iterable[str] = ()) -> Rows:
    found = tuple(rows)
    columns = tuple(titles) or tuple(dict.fromkeys(column for row in found for column in row.cells))
    if not found:
        raise UserError(f"{name}: no rows")
    return Rows(name, columns, found)


# -- files ------------------------------------------------------------------------------------------------


def _reader(text: str) -> Iterator[list[str]]:
    header = text.partition("\n")[0]
    return csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=header.count))


def _titles(name: str, text: str) -> list[str]:
    titles = [title.strip() for title in next(_reader(text), [])]
    twice = next((title for title in titles if titles.count(title) > 1), None)
    if twice is not None:
        raise UserError(f"{name}: two columns are named {twice!r}; rename one")
    return titles


def _csv(request: Request, text: str, titles: Sequence[str]) -> Iterator[Row]:
    """Yield the rows with those cells that the request may look at: others can be many, and take their time."""
    places = [(place, title) for place, title in enumerate(titles) if title in request.columns]
    for number, cells in enumerate(_reader(text), start=1):
        if number == 1 or not cells:
            continue
        if len(cells) > len(titles):
            raise UserError(f"{request.table} line {number}: {len(cells)} cells under {len(titles)} titles")
        yield Row(f"line {number}", {title: plain(cells[at]) if at < len(cells) else None for at, title in places})


def _json_lines(name: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield _json_row(name, f"line {number}", json.loads(line))
            except ValueError as error:
                raise UserError(f"{name} line {number}: not JSON: {error}") from None


def _json(name: str, text: str) -> Iterator[Row]:
    try:
        items = json.loads(text)
    except ValueError:
        yield from _json_lines(name, text)
        return
    if not isinstance(items, list):
        raise UserError(f"{name}: holds one {type(items).__name__}; give a list of objects, or one object a line")
    for number, item in enumerate(items, start=1):
        yield _json_row(name, f"item {number}", item)


def _json_row(name: str, place: str, item: Any) -> Row:
    if not isinstance(item, dict):
        raise UserError(f"{name} {place}: {str(item)[:40]!r} is no object; give one object a run, or a step")
    return Row(place, dict(_flat(item)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Plain]]:
    """Yield plain cells; what lies within an object is named `outer.inner`, lists are left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            yield f"{prefix}{name}", plain(value)
        elif isinstance(value, float) and value.is_integer():
            yield f"{prefix}{name}", int(value)
        elif value is None or isinstance(value, bool | int | float):
            yield f"{prefix}{name}", value


# -- MLflow -----------------------------------------------------------------------------------------------


def _mlflow(request: Request) -> Iterator[Row]:
    uri, name = _address(request.table)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise UserError(
            f"{request.table}: no MLflow database {uri.removeprefix('sqlite:///')}; set MLFLOW_TRACKING_URI"
        )
    from orchestrator.tracking import reading_client

    client = reading_client(uri)
    experiment = _experiment(client, request.table, name)
    for run in _runs(client, experiment.experiment_id):
        yield from _run_rows(client, run, request)


def _address(table: str) -> tuple[str, str]:
    """Return the tracking URI and the experiment's name (empty: the only one there is)."""
    if table.startswith("mlflow:"):
        ours = f"sqlite:///{DATABASE.absolute()}"
        return os.environ.get("MLFLOW_TRACKING_URI") or ours, table.removeprefix("mlflow:")
    uri, _, name = table.partition("#")
    return uri, name


def _experiment(client: Any, table: str, name: str) -> Any:
    from orchestrator.errors import UnknownName

    known = {experiment.name: experiment for experiment in client.search_experiments()}
    if not name:
        named = [found for title, found in known.items() if title != "Default"]
        if len(named) == 1:
            return named[0]
        raise UserError(f"{table}: {len(known)} experiments; name one as #EXPERIMENT: {', '.join(sorted(known))}")
    if name not in known:
        raise UnknownName(f"{table}: no experiment {name!r}", known, name, "Experiments")
    return known[name]


def _runs(client: Any, experiment: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _run_rows(client: Any, run: Any, request: Request) -> Iterator[Row]:
    """Yield a run's row, or with --step a row for every value of the metric; the columns are params, tags, metrics."""
    data = run.data
    tags = {name: plain(value) for name, value in data.tags.items() if not name.startswith("mlflow.")}
    params = {name: plain(value) for name, value in data.params.items()}
    about = {"run_id": run.info.run_id, "run_name": run.info.run_name, "status": run.info.status.lower()}
    cells: dict[str, Plain] = {**about, **tags, **params, **data.metrics, "run_id": run.info.run_id}
    place = f"run {run.info.run_name}"
    if request.step is None or request.metric not in data.metrics:
        yield Row(place, cells)
        return
    for point in client.get_metric_history(run.info.run_id, request.metric):
        yield Row(f"{place} step {point.step}", {**cells, request.step: point.step, request.metric: point.value})
