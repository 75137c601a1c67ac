"""How much does the training loss oscillate? The standard deviation of its steps about a smooth trend, per arm.

sigma^2 = sum (x[i+1] - x[i])^2 / (2 (n - 1)) over the n logged training losses of one run: half the mean square of
successive differences (von Neumann 1941; Rice 1984). A smooth trend hardly enters it, however steep the curve is at
first; a constant level not at all. Each loss is that of one step's batch: data order adds to every arm alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import pandas as pd

from orchestrator.record import Record
from orchestrator.report.claims.basis import Basis
from orchestrator.report.claims.words import estimate, p_words
from orchestrator.report.sections import Grid, Section

COLUMN = "oscillation"
FEWEST = 4
"""Logged losses below which there is nothing to call an oscillation."""


def oscillation(losses: Sequence[float]) -> float | None:
    """Return the difference-based standard deviation of one run's training losses; None for fewer than four."""
    if len(losses) < FEWEST or not all(math.isfinite(loss) for loss in losses):
        return None
    squares = sum((after - before) ** 2 for before, after in itertools.pairwise(losses))
    return math.sqrt(squares / (2 * (len(losses) - 1)))


def with_oscillation(table: pd.DataFrame, records: Mapping[str, Record]) -> pd.DataFrame:
    """Return the tidy table with the oscillation of every finished run that logged a training loss."""
    values = [_of(records.get(run_id)) for run_id in table["run_id"]]
    return table.assign(**{COLUMN: pd.Series(values, index=table.index, dtype="float64")})


def _of(record: Record | None) -> float | None:
    if record is None or record.status != "done":
        return None
    return oscillation([loss for loss in record.history.get("loss", []) if loss is not None])


def section(basis: Basis) -> Section | None:
    """Return arm against baseline in oscillation, at every rank."""
    family = basis.family
    if not family.has_baseline or not family.rows[COLUMN].notna().any():
        return None
    rows = [
        [
            *(str(value) for value in group.values()),
            f"{arm} − {family.comparison.baseline}",
            str(test.n),
            estimate(test.paired),
            p_words(test.p_adjusted),
        ]
        for arm in family.arms[1:]
        for group, test in basis.against(arm, COLUMN)
        if test.n
    ]
    if not rows:
        return None
    header = [*family.groups, "arms", "n", "difference in oscillation", "adjusted p"]
    return Section(
        name="oscillation",
        title="Oscillation of the training loss",
        paragraphs=[
            "Standard deviation of the logged training losses about a smooth trend, from successive differences "
            "(sqrt(sum of squares / (2 (n − 1))); von Neumann 1941, Rice 1984). Exploratory: p is adjusted over the "
            "groups of one arm, and no verdict rests on it. The level of a loss is not taken out of it: an arm whose "
            "loss is lower oscillates less for that alone.",
        ],
        grids=[Grid(header=header, rows=rows, text_columns=len(family.groups) + 1)],
    )
