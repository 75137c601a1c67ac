"""What is compared with what: a study's arms, groups and replicates, as rows and columns of the tidy table.

A replicate is what two arms share: the same split, teacher and seed (orchestrator.replication). Runs that differ in an
axis only one arm follows (a teacher's seed, for a student that reads no teacher) are averaged first: they repeat a
replicate, and do not add one. Tuning runs are in no comparison.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import pandas as pd

from orchestrator import statistics
from orchestrator.freshness import PENDING
from orchestrator.replication import check_looks, key_of, levels, replicate_axes, splitting_axes
from orchestrator.results import arm_stage, axis_columns, ordered
from orchestrator.statistics.replicates import Key
from orchestrator.study import Comparison, Study
from trainables.base import Scalar

Side: TypeAlias = dict[Key, list[float]]
"""One arm's values by replicate; an empty list where one of them is missing."""


@dataclass(frozen=True)
class Pairing:
    """Two arms by replicate: differences, the replicates that were planned, and those that may still come.

    `ours` and `theirs` are the values of the replicates in `found`, in its order.
    """

    found: statistics.Replicates
    planned: frozenset[Key]
    waiting: int
    ours: list[float]
    theirs: list[float]

    def is_due(self, looks: Sequence[int]) -> bool:
        """Say whether it may be tested now: all planned replicates are there, or as many as a declared look has."""
        is_complete = not self.waiting and (not looks or len(self.planned) >= looks[-1])
        return is_complete or len(self.found.differences) in looks


@dataclass(frozen=True)
class Family:
    """The comparisons of a study, and the table's rows and columns that they are made of.

    `table` may be given with tuning runs: they are taken out of it, and kept in `tuning`.
    """

    study: Study
    table: pd.DataFrame

    def __post_init__(self) -> None:
        whole = self.table
        is_tuning = whole["purpose"] == "tuning" if "purpose" in whole else pd.Series(False, index=whole.index)
        object.__setattr__(self, "table", whole[~is_tuning])
        object.__setattr__(self, "_tuning", whole[is_tuning])

    @property
    def tuning(self) -> pd.DataFrame:
        """The rows of tuning runs, which no verdict uses."""
        return self._tuning  # type: ignore[attr-defined, no-any-return]

    @property
    def comparison(self) -> Comparison:
        """The study's comparison, or the default one where it has none."""
        return self.study.comparison or Comparison()

    @cached_property
    def columns(self) -> dict[str, str]:
        """Axis name -> column, of those columns that the table has."""
        return {axis: column for axis, column in axis_columns(self.study).items() if column in self.table}

    @property
    def arm(self) -> str | None:
        """The column of the compared axis; None where the study does not vary it."""
        return self.columns.get(self.comparison.arm)

    @cached_property
    def replicates(self) -> list[str]:
        """The columns whose values make replicates, outermost first."""
        return [self.columns[axis] for axis in replicate_axes(self.study) if axis in self.columns]

    @cached_property
    def groups(self) -> list[str]:
        """The columns that split the family: rank, and whatever else varies and is neither arm nor replicate."""
        return [self.columns[axis] for axis in splitting_axes(self.study) if axis in self.columns]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows of the compared stage."""
        return self.table[self.table["stage"] == arm_stage(self.study)]

    @cached_property
    def arms(self) -> list[str]:
        """The arms of the study, the baseline first."""
        if self.arm is None:
            return []
        known = set(self.rows[self.arm].dropna())
        ordered = [value for value in self.study.axes.get(self.comparison.arm, ()) if value in known]
        return [str(value) for value in sorted(ordered, key=lambda value: value != self.comparison.baseline)]

    @property
    def has_baseline(self) -> bool:
        """Whether there is anything to compare: the baseline's runs, and another arm's."""
        return len(self.arms) > 1 and self.arms[0] == str(self.comparison.baseline)

    def cells(self) -> Iterator[tuple[dict[str, Scalar], pd.DataFrame]]:
        """Yield every group (rank 4, rank 16, ...) with its rows of the compared stage."""
        if not self.groups:
            yield {}, self.rows
            return
        found = [
            (dict(zip(self.groups, map(_plain, values), strict=True)), rows)
            for values, rows in self.rows.groupby(self.groups, dropna=False, sort=True)
        ]
        yield from sorted(found, key=lambda cell: [self._places[name].get(at, -1) for name, at in cell[0].items()])

    @cached_property
    def _places(self) -> dict[str, dict[Scalar, int]]:
        """The place of every value of the columns that split the family."""
        axes = ((self.columns[axis], ordered(self.study.axes[axis])) for axis in splitting_axes(self.study))
        return {column: {value: place for place, value in enumerate(values)} for column, values in axes}

    def rows_of(self, arm: str, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of one arm."""
        return rows[rows[self.arm].astype(str) == arm] if self.arm else rows

    def compared(self, arm: str, rows: pd.DataFrame, column: str) -> Pairing:
        """Return an arm against the baseline in one group, in one column of the table, by replicate."""
        return self.pair(self.rows_of(arm, rows), self.rows_of(str(self.comparison.baseline), rows), column)

    def pair(self, ours: pd.DataFrame, theirs: pd.DataFrame, column: str, other: str = "") -> Pairing:
        """Return the rows `ours` against `theirs` in a column (of theirs: `other`), by the replicates they share."""
        keys = [self.keys(ours), self.keys(theirs)]
        parts = [at for at in range(len(levels(self.study))) if all(key[at] is not None for key in keys[0] + keys[1])]
        names = [levels(self.study)[at] for at in parts]
        reduced = [[tuple(key[at] for at in parts) for key in side] for side in keys]
        sides = [
            _side(_values(rows, name), side)
            for rows, name, side in zip((ours, theirs), (column, other or column), reduced, strict=True)
        ]
        planned = _differences({key: [0.0] for key in sides[0]}, {key: [0.0] for key in sides[1]}, names)
        depth = len(next(iter(planned), ()))
        found = statistics.paired_differences(*sides, depth=depth, names=names)
        pending = {
            key
            for rows, side in zip((ours, theirs), reduced, strict=True)
            for key, waits in zip(side, self._is_pending(rows), strict=True)
            if waits
        }
        waiting = {key[:depth] for key in pending if not all(side.get(key) for side in sides)}
        check_looks(self.comparison, len(planned))
        averages = [_averaged(side, sides[1 - at], depth) for at, side in enumerate(sides)]
        ordered = [[average[key] for key in found.differences] for average in averages]
        return Pairing(found, frozenset(planned), len(waiting), *ordered)

    def keys(self, rows: pd.DataFrame) -> list[Key]:
        """Return each row's replicate, with None for a part that it has not."""
        columns = {axis: self.columns[axis] for axis in replicate_axes(self.study) if axis in self.columns}
        values = ({axis: _plain(row[column]) for axis, column in columns.items()} for _, row in rows.iterrows())
        return [key_of(self.study, value) for value in values]

    def reference(self, stage: str, row: Mapping[Any, Any] | pd.Series[Any]) -> float | None:
        """Return the primary outcome of the base or the teacher that shares this row's axes; their mean if several."""
        mine = {column: value for column in self.columns.values() if (value := _plain(row[column])) is not None}
        fits = [
            value for axes, value in self._outcomes(stage) if all(mine.get(name, at) == at for name, at in axes.items())
        ]
        return sum(fits) / len(fits) if fits else None

    def _outcomes(self, stage: str) -> list[tuple[dict[str, Scalar], float]]:
        """Return axes and primary outcome of every finished run of one stage."""
        if stage not in self._cache:
            rows, metric = self.table[self.table["stage"] == stage], self.comparison.metric
            known = rows[rows[metric].notna()] if metric in rows else rows.iloc[:0]
            columns = list(self.columns.values())
            self._cache[stage] = [
                ({name: at for name in columns if (at := _plain(row[name])) is not None}, float(row[metric]))
                for _, row in known.iterrows()
            ]
        return self._cache[stage]

    @cached_property
    def _cache(self) -> dict[str, list[tuple[dict[str, Scalar], float]]]:
        return {}

    def _is_pending(self, rows: pd.DataFrame) -> list[bool]:
        """Say of each run whether its primary outcome may still come: the run or its evaluation is pending."""
        pending, waiting = rows["status"] == PENDING, self._waiting
        return [bool(now) or run_id in waiting for now, run_id in zip(pending, rows["run_id"], strict=True)]

    @cached_property
    def _waiting(self) -> set[Any]:
        """The runs whose evaluation is pending."""
        pending = self.table[self.table["status"] == PENDING]
        return set(pending["subject_id"].dropna()) if "subject_id" in pending else set()


def _values(rows: pd.DataFrame, column: str) -> list[float]:
    if column not in rows:
        return [math.nan] * len(rows)
    return [float(value) for value in rows[column].astype("float64")]


def _side(values: Sequence[float], keys: Sequence[Key]) -> Side:
    """Return the values by replicate; a replicate one of whose runs has none has none."""
    found: Side = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        found[key].append(value)
    return {key: [] if any(math.isnan(value) for value in repeats) else repeats for key, repeats in found.items()}


def _differences(ours: Side, theirs: Side, names: Sequence[str]) -> dict[Key, float]:
    """Return a zero for every replicate that either side has, as deep as those that both have."""
    found = statistics.paired_differences(ours, theirs, names=names)
    depth = len(next(iter(found.differences), tuple(names)))
    return dict.fromkeys([*found.differences, *(key[:depth] for key in found.unpaired)], 0.0)


def _averaged(side: Side, other: Mapping[Key, list[float]], depth: int) -> dict[Key, float]:
    """Return the mean of each replicate's runs that have a counterpart."""
    found: Side = defaultdict(list)
    for key, repeats in side.items():
        if repeats and other.get(key):
            found[key[:depth]].append(sum(repeats) / len(repeats))
    return {key: sum(values) / len(values) for key, values in found.items()}


def _plain(value: Any) -> Scalar:
    """Return a value of the table as plain Python; None for a missing one."""
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, str | bool | int | float) or plain != plain:
        return None
    return plain
