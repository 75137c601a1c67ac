"""What is compared with what: a study's arms, groups and pairs, as rows and columns of the tidy table.

A pair is what two arms share: the same rank and the same value of every other axis that both of them follow.
Runs that differ in an axis only one arm follows (a teacher's seed, for a student that reads no teacher) are
averaged first: they repeat a pair, and do not add one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from orchestrator.results import arm_stage, axis_columns
from orchestrator.study import Comparison, Study
from trainables.base import Scalar

REPLICATE_SETTINGS = ("seed", "fold")
"""Axes of settings with these names are replicates; any other axis but the arm splits the family."""


@dataclass(frozen=True)
class Family:
    """The comparisons of a study, and the table's rows and columns that they are made of."""

    study: Study
    table: pd.DataFrame

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
        """The columns whose values make pairs."""
        named = {self.comparison.replicate}
        named |= {axis for axis in self.study.axes if axis.partition(".")[2] in REPLICATE_SETTINGS}
        return [column for axis, column in self.columns.items() if axis in named]

    @cached_property
    def groups(self) -> list[str]:
        """The columns that split the family: rank, and whatever else varies and is neither arm nor replicate."""
        ours = [self.columns[axis] for axis in self.study.axes if axis in self.columns]
        return [column for column in ours if column != self.arm and column not in self.replicates]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows of the compared stage, without the runs that only chose a setting."""
        is_compared = self.table["stage"] == arm_stage(self.study)
        return self.table[is_compared & (self.table["purpose"] == "verdict")]

    @cached_property
    def arms(self) -> list[str]:
        """The arms of the study, the baseline first."""
        if self.arm is None:
            return []
        known = set(self.rows[self.arm].dropna())
        ordered = [value for value in self.study.axes.get(self.comparison.arm, ()) if value in known]
        return [str(value) for value in sorted(ordered, key=lambda value: value != self.comparison.baseline)]

    def cells(self) -> Iterator[tuple[dict[str, Scalar], pd.DataFrame]]:
        """Yield every group (rank 4, rank 16, ...) with its rows of the compared stage."""
        if not self.groups:
            yield {}, self.rows
            return
        for values, rows in self.rows.groupby(self.groups, dropna=False, sort=True):
            yield dict(zip(self.groups, (_plain(value) for value in values), strict=True)), rows

    def rows_of(self, arm: str, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of one arm."""
        return rows[rows[self.arm].astype(str) == arm] if self.arm else rows

    def paired(self, arm: str, rows: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the `columns` of arm and baseline, indexed alike by pair, repeats averaged; missing values are NaN."""
        pair = [self.rows_of(name, rows) for name in (arm, self.comparison.baseline)]
        shared = [name for name in self.replicates if all(side[name].notna().all() for side in pair)]
        sides = [_by_replicate(side, shared, columns) for side in pair]
        index = sides[0].index.union(sides[1].index)
        return sides[0].reindex(index), sides[1].reindex(index)


def _by_replicate(rows: pd.DataFrame, replicates: list[str], columns: Sequence[str]) -> pd.DataFrame:
    values = rows[list(columns)].astype("float64")
    if not replicates:
        return values.mean(skipna=False).to_frame().T
    return values.groupby([rows[name] for name in replicates]).agg(_mean_of_all)


def _mean_of_all(repeats: pd.Series[Any]) -> float:
    """Return the mean of repeats; NaN if one of them is missing."""
    return float(repeats.mean(skipna=False))


def _plain(value: Any) -> Scalar:
    """Return a value of the table as plain Python."""
    plain = value.item() if hasattr(value, "item") else value
    return plain if isinstance(plain, str | bool | int | float) else None
