"""Rows to runs: one outcome for each run of a table, or why it has none.

Tables of other tools repeat seeds, log the last step twice, break off, and hold NaN. Whatever is decided here about
such rows is said in a note; nothing is dropped in silence.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.compare.request import PURPOSE, RUNS, STAGE, STEPS, Request
from orchestrator.compare.sources import Plain, Row, Rows, plain
from orchestrator.errors import UnknownName, UserError
from orchestrator.statistics import Hit, first_hit
from orchestrator.statistics.replicates import Key

Group: TypeAlias = tuple[Plain, ...]
"""The values of the columns that split the family."""

WAITING = frozenset({"pending", "running", "scheduled", "queued"})
ENDED_BADLY = frozenset({"diverged", "failed", "oom", "killed", "pruned", "skipped", "crashed"})


@dataclass(frozen=True)
class Outcome:
    """What one run came to: a value at its last step and, with a target, its hit; else `fate` says why not."""

    value: float | None
    fate: str = ""
    hit: Hit | None = None
    last: float | None = None


@dataclass(frozen=True)
class Cell:
    """The runs of one arm in one group, by pair."""

    group: Group
    arm: str
    outcomes: dict[Key, list[Outcome]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gathered:
    """Everything the judge needs: cells by group and arm, the arms with the baseline first, and notes on the rows."""

    groups: tuple[Group, ...]
    arms: tuple[str, ...]
    cells: Mapping[tuple[Group, str], Cell]
    notes: tuple[str, ...]


def gather(request: Request, rows: Rows) -> Gathered:
    """Return the outcomes of a table's runs; raises UserError for columns, baselines or values that are not there."""
    _check_columns(request, rows)
    notes: list[str] = []
    known = _labelled(request, rows, notes)
    arms = _arms(request, rows, known)
    _check_constant(request, known, notes)
    buckets: dict[tuple[Group, str, Key], list[Row]] = defaultdict(list)
    for row in known:
        buckets[_values(row, request.by), text(row.cells[request.arm]), _values(row, request.key_names)].append(row)
    maker = _Maker(request, next((name for name in (request.run, *RUNS) if name in rows.columns), None))
    cells: dict[tuple[Group, str], Cell] = {}
    for (group, arm, key), bucket in buckets.items():
        cell = cells.setdefault((group, arm), Cell(group, arm))
        cell.outcomes[key] = maker.outcomes(bucket, f"{arm} {_place(request, group, key)}")
    groups = sorted({group for group, _ in cells}, key=_order)
    return Gathered(tuple(groups), arms, cells, (*notes, *maker.notes()))


def text(value: Plain) -> str:
    """Return a label as text: an arm's name."""
    return "" if value is None else str(value)


def _check_columns(request: Request, rows: Rows) -> None:
    wanted = [("--arm", request.arm), *(("--pair", name) for name in request.pair), ("--metric", request.metric)]
    wanted += [("--by", name) for name in request.by] + [("--where", name) for name, _ in request.where]
    wanted += [(option, name) for option, name in (("--step", request.step), ("--run", request.run)) if name]
    for option, name in wanted:
        if name not in rows.columns:
            raise UnknownName(f"{option} {name}: {rows.name} has no such column", rows.columns, name, "Columns")


def _labelled(request: Request, rows: Rows, notes: list[str]) -> list[Row]:
    """Return the rows that say which arm, group and pair they are; an arm may lack a part of the pair throughout."""
    wanted = (request.arm, *request.by, *([request.step] if request.step else []))
    chosen = _compared(request, _selected(request, rows), notes)
    known = [row for row in chosen if _gives(row, wanted)]
    has = {(text(row.cells[request.arm]), part) for row in known for part in request.pair if _gives(row, (part,))}

    def is_paired(row: Row) -> bool:
        parts = [name for name in request.pair if (text(row.cells[request.arm]), name) in has]
        return bool(parts) and _gives(row, parts)

    kept = [row for row in known if is_paired(row)]
    lost = len(chosen) - len(kept)
    if lost:
        names = ", ".join((*wanted, *request.pair))
        notes.append(f"{_count(lost, 'row')} left out: {names} not all given")
    return kept


def _selected(request: Request, rows: Rows) -> list[Row]:
    """Return the rows that have the values of every --where."""
    found = list(rows.rows)
    for name, value in request.where:
        values = {text(row.cells.get(name)) for row in found}
        found = [row for row in found if text(row.cells.get(name)) == text(plain(value))]
        if not found:
            raise UnknownName(f"--where {name}={value}: no row has that", values, value, "Values")
    return found


def _compared(request: Request, rows: Sequence[Row], notes: list[str]) -> list[Row]:
    """Return the rows without runs that chose a setting, and without stages that never measure the metric.

    A table of results has rows of both kinds beside those that are compared; no other table has such columns.
    """
    kept = [row for row in rows if row.cells.get(PURPOSE) != "tuning"]
    if not kept or PURPOSE in dict(request.where):
        kept = list(rows)
    elif len(kept) < len(rows):
        notes.append(f"{_count(len(rows) - len(kept), 'row')} of tuning runs left out: no verdict uses them")
    stages = {row.cells.get(STAGE) for row in kept if _gives(row, (request.metric,))}
    found = [row for row in kept if not stages or row.cells.get(STAGE) in stages]
    silent = {text(row.cells.get(STAGE)) for row in kept if _gives(row, (request.arm,))} - {text(s) for s in stages}
    if stages and silent:
        notes.append(f"rows of {', '.join(sorted(silent))} left out: {request.metric} is measured by others")
    return found


def _arms(request: Request, rows: Rows, known: Sequence[Row]) -> tuple[str, ...]:
    """Return the arms, the baseline first."""
    arms = list(dict.fromkeys(text(row.cells[request.arm]) for row in known))
    if not arms:
        raise UserError(f"{rows.name}: no row gives {request.arm} and {', '.join((*request.by, *request.pair))}")
    if request.baseline not in arms:
        said = f"--baseline {request.baseline}: no row of {rows.name} has {request.arm} = {request.baseline}"
        raise UnknownName(said, arms, request.baseline, "Arms")
    if len(arms) == 1:
        raise UserError(f"--arm {request.arm}: it is {arms[0]!r} in every row; there is nothing to compare it with")
    return (request.baseline, *sorted(arm for arm in arms if arm != request.baseline))


def _check_constant(request: Request, known: Sequence[Row], notes: list[str]) -> None:
    values = {row.cells.get(request.metric) for row in known}
    if len(known) > 1 and len(values) == 1 and None not in values:
        notes.append(f"{request.metric} is {values.pop()} in every row: a constant cannot tell arms apart")
    for name in request.pair:
        labels = {row.cells.get(name) for row in known} - {None}
        if len(labels) == 1 and len(request.pair) == 1:
            notes.append(f"{name} is {labels.pop()} in every row: one pair, and no test of one pair gives p below 1")
    single = [name for name in request.by if len({row.cells.get(name) for row in known}) == 1]
    notes += [f"--by {name}: it has one value, and splits nothing" for name in single]


class _Maker:
    """Makes outcomes of a pair's rows and counts what had to be decided."""

    def __init__(self, request: Request, run_column: str | None) -> None:
        self.request, self.run_column = request, run_column
        self.decided: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.ends: set[float] = set()

    def outcomes(self, rows: Sequence[Row], name: str) -> list[Outcome]:
        """Return the outcome of each run among the rows of one arm, group and pair.

        Rows of a curve without the metric (steps that were not evaluated) are passed over where others have it, but for
        those that alone say how a run ended.
        """
        if self.request.step is None:
            self._check_is_no_curve(rows)
            found = [self._plain(row) for row in rows]
        else:
            found = [self._curve(points) for points in self._split(self._telling(rows), name)]
        if len(found) > 1:
            self._decide("repeats of one pair averaged, and counted once", name)
        if any(outcome.hit is not None and outcome.hit.left_again for outcome in found):
            self._decide("curves left the target again after reaching it; the first hit counts", name)
        return found

    def _telling(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the rows with the metric, and those with a status at steps of which there is no metric."""
        evaluated = [row for row in rows if _gives(row, (self.request.metric,))]
        places = {self._at(row) for row in evaluated}
        ends = [row for row in rows if _status(row) and self._at(row) not in places]
        return [*evaluated, *ends] if evaluated else rows

    def _at(self, row: Row) -> tuple[Plain, float]:
        return row.cells.get(self.run_column or ""), self._step(row)

    def notes(self) -> list[str]:
        """Return what was decided, each with how often and where first."""
        found = [f"{what}: {count} (first: {self.examples[what]})" for what, count in self.decided.items()]
        if len(self.ends) > 1 and self.request.target is None:
            ends = f"{min(self.ends):g} to {max(self.ends):g}"
            found.append(f"runs end at different steps, {ends}: the last value of each is compared")
        return found

    def _decide(self, what: str, name: str) -> None:
        self.decided[what] += 1
        self.examples.setdefault(what, name)

    def _check_is_no_curve(self, rows: Sequence[Row]) -> None:
        for name in STEPS:
            if len({row.cells.get(name) for row in rows} - {None}) > 1:
                raise UserError(
                    f"{self.request.table}: runs have several rows, which differ in {name!r}; "
                    f"say --step {name} to compare their last values, with --target VALUE the steps to it"
                )

    def _plain(self, row: Row) -> Outcome:
        fate = _status(row)
        value = _number(self.request, row)
        if fate:
            return Outcome(None, fate)
        if value is None:
            return Outcome(None, "missing")
        return Outcome(value) if math.isfinite(value) else Outcome(None, "diverged")

    def _curve(self, points: Sequence[tuple[float, Row]]) -> Outcome:
        """Return a run's last value and hit; its points are in the order of their steps, one each."""
        fate = _status(points[-1][1])
        steps = [step for step, _ in points]
        given = [_number(self.request, row) for _, row in points]
        known = [(step, value) for step, value in zip(steps, given, strict=True) if value is not None]
        if fate in WAITING or (fate and fate != "diverged") or not known:
            return Outcome(None, fate or "missing")
        values = [value for _, value in known]
        if fate == "diverged":
            values[-1] = math.nan
        self.ends.add(known[-1][0])
        hit = self._hit([step for step, _ in known], values)
        if math.isfinite(values[-1]):
            return Outcome(values[-1], hit=hit, last=known[-1][0])
        return Outcome(None, "diverged", hit=hit, last=known[-1][0])

    def _hit(self, steps: Sequence[float], values: Sequence[float]) -> Hit | None:
        target = self.request.target
        if target is None:
            return None
        return first_hit(steps, values, target, higher_is_better=self.request.higher_is_better)

    def _split(self, rows: Sequence[Row], name: str) -> list[list[tuple[float, Row]]]:
        """Return the points of every run among rows of one pair, by a run column or by what repeats.

        Where the first step comes twice, the k-th row of a step is the k-th run's. Where only later steps do, a run was
        resumed, or its last step logged twice: the later row of a step holds.
        """
        if self.run_column is not None and all(row.cells.get(self.run_column) is not None for row in rows):
            runs: dict[Plain, list[Row]] = defaultdict(list)
            for row in rows:
                runs[row.cells[self.run_column]].append(row)
            return [self._latest(mine, name) for mine in runs.values()]
        by_step: dict[float, list[Row]] = defaultdict(list)
        for row in rows:
            by_step[self._step(row)].append(row)
        repeats = len(by_step[min(by_step)])
        if repeats == 1 or len(by_step) == 1:
            return [self._latest(rows, name)]
        return [[(s, by_step[s][k]) for s in sorted(by_step) if k < len(by_step[s])] for k in range(repeats)]

    def _latest(self, rows: Sequence[Row], name: str) -> list[tuple[float, Row]]:
        points: dict[float, Row] = {}
        for row in rows:
            step = self._step(row)
            if step in points and points[step].cells.get(self.request.metric) == row.cells.get(self.request.metric):
                self._decide("steps logged twice with one value, counted once", f"{name} step {step:g}")
            elif step in points:
                self._decide("steps logged twice with two values, the later row taken", f"{name} step {step:g}")
            points[step] = row
        return sorted(points.items(), key=lambda point: point[0])

    def _step(self, row: Row) -> float:
        step = row.cells.get(self.request.step or "")
        if isinstance(step, bool) or not isinstance(step, int | float) or not math.isfinite(step):
            raise UserError(f"{self.request.table} {row.place}: {self.request.step} is {step!r}, and not a number")
        return float(step)


def _status(row: Row) -> str:
    """Return what a `status` column says of a run that has no result: pending, diverged, failed; else nothing."""
    status = text(row.cells.get("status")).lower()
    return status if status in WAITING | ENDED_BADLY else ""


def _number(request: Request, row: Row) -> float | None:
    value = row.cells.get(request.metric)
    if value is None:
        return None
    if isinstance(value, str):
        raise UserError(f"{request.table} {row.place}: {request.metric} is {value!r}, and not a number")
    return float(value)


def _gives(row: Row, names: Iterable[str]) -> bool:
    """Say whether the row has a value in all of these columns."""
    return all(row.cells.get(name) is not None for name in names)


def _values(row: Row, names: Iterable[str]) -> Group:
    return tuple(row.cells.get(name) for name in names)


def _place(request: Request, group: Group, key: Key) -> str:
    named = [*zip(request.by, group, strict=True), *zip(request.key_names, key, strict=True)]
    return " ".join(f"{name} {value}" for name, value in named if value is not None)


def _order(group: Group) -> tuple[tuple[int, float, str], ...]:
    """Return what sorts groups: numbers by size, then texts."""
    return tuple((0, float(v), "") if isinstance(v, int | float) else (1, 0.0, text(v)) for v in group)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
