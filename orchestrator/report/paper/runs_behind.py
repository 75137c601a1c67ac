"""Which rows of results.csv a number of the comparison is computed from."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import pandas as pd

from orchestrator.replication import levels
from orchestrator.report.material import Material
from orchestrator.report.measures import BY_KEY
from orchestrator.report.quotes import with_restricted_steps
from orchestrator.report.summary import Difference, Line
from orchestrator.results import arm_stage
from orchestrator.statistics.replicates import Key
from trainables.base import Scalar

STEPS = ("steps_to_target", "steps_censored_at")


def measured(material: Material, line: Line, rows: pd.DataFrame, key: str) -> tuple[str, tuple[str, ...]]:
    """Return the column and the run ids behind one measure of a line, whose `rows` are those of `of_line`.

    The measure "steps" is that of the steps to the target.
    """
    if key == "steps":
        there = [name for name in STEPS if name in rows]
        return " ".join(there), _ids(rows[rows[there].notna().any(axis=1)])
    if key == "energy" and line.kind == "arm":
        return f"energy_{line.group.get('rank')}", _exports(material, rows)
    if key == "gap_closed":
        return material.summary.metric, _ends(material) + _with(rows, material.summary.metric)
    source = BY_KEY[key].source if key in BY_KEY and BY_KEY[key].source else key
    return source, _with(rows[rows["status"] == "done"], source)


def of_line(material: Material, line: Line) -> pd.DataFrame:
    """Return the rows of a line of the comparison."""
    table = material.family.table
    if line.stage:
        return table[table["stage"] == line.stage]
    if line.kind == "untrained":
        return _of_group(table[(table["stage"] == "evaluate") & (table["subject"] == "svd_export")], line.group)
    rows = next((rows for group, rows in material.family.cells() if group == line.group), table.iloc[:0])
    return rows if line.label == arm_stage(material.plan.study) else material.family.rows_of(line.label, rows)


def difference(material: Material, item: Difference) -> tuple[str, ...]:
    """Return the runs behind a difference: those of both arms that have a partner, or, by item, all that are done."""
    if item.unit == "item":
        rows = next((rows for there, rows in material.family.cells() if there == item.group), material.family.rows)
        done = rows[rows["status"] == "done"]
        sides = [material.family.rows_of(name, done) for name in (item.arm, item.baseline)]
        return tuple(chain(*map(_ids, sides)))
    return pair(material, item.arm, item.group, material.summary.metric)


def pair(material: Material, arm: str, group: Mapping[str, Scalar], column: str) -> tuple[str, ...]:
    """Return the runs of an arm and of the baseline behind their difference: replicates that both have whole."""
    family = material.family
    rows = next((rows for there, rows in family.cells() if there == group), family.rows.iloc[:0])
    if column == STEPS[0]:
        rows, column = with_restricted_steps(rows), "_steps"
    sides = [family.rows_of(name, rows) for name in (arm, str(family.comparison.baseline))]
    found = family.compared(arm, rows, column).found.differences
    keys = [family.keys(side) for side in sides]
    parts = [at for at in range(len(levels(material.plan.study))) if all(key[at] is not None for key in chain(*keys))]
    reduced = [[tuple(key[at] for at in parts) for key in side] for side in keys]
    whole = [_whole(side, of, column) for side, of in zip(sides, reduced, strict=True)]
    depth = len(next(iter(found), ()))
    return tuple(
        str(run)
        for side, of in zip(sides, reduced, strict=True)
        for run, key in zip(side["run_id"], of, strict=True)
        if key in whole[0] & whole[1] and key[:depth] in found
    )


def _whole(rows: pd.DataFrame, keys: list[Key], column: str) -> set[Key]:
    """Return the replicates all of whose runs have a value."""
    if column not in rows:
        return set()
    lacking = {key for key, value in zip(keys, rows[column].isna(), strict=True) if value}
    return set(keys) - lacking


def _of_group(rows: pd.DataFrame, group: Mapping[str, Scalar]) -> pd.DataFrame:
    for column, value in group.items():
        rows = rows[rows[column].isna() | (rows[column] == value)] if column in rows else rows
    return rows


def _ends(material: Material) -> tuple[str, ...]:
    table = material.family.table
    return _with(table[table["stage"].isin(["base_model", "teacher"])], material.summary.metric)


def _exports(material: Material, rows: pd.DataFrame) -> tuple[str, ...]:
    inputs = [material.records[run].inputs for run in rows["run_id"] if run in material.records]
    return tuple(sorted({reads["svd_export"] for reads in inputs if "svd_export" in reads}))


def _with(rows: pd.DataFrame, column: str) -> tuple[str, ...]:
    return _ids(rows[rows[column].notna()]) if column in rows else _ids(rows)


def _ids(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(str(run) for run in rows["run_id"])
