"""The percentages that first users quote: arm against baseline in percent of the baseline's mean."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from orchestrator import statistics
from orchestrator.report.differences import number
from orchestrator.report.family import Family
from orchestrator.report.summary import Number, Quote


def quotes(family: Family) -> Iterator[Quote]:
    """Yield, per group and arm, initial loss, steps to target and final loss in percent of the baseline's mean."""
    for group, rows in family.cells() if family.arm else ():
        for arm in family.arms[1:]:
            yield Quote(
                arm=arm,
                baseline=str(family.comparison.baseline),
                group=group,
                initial_loss=percent(family, arm, rows, "initial_eval_loss"),
                steps=percent_of_steps(family, arm, rows),
                final_loss=percent(family, arm, rows, "final_eval_loss"),
            )


def percent_of_steps(family: Family, arm: str, rows: pd.DataFrame) -> Number | None:
    """Return `percent` of the steps to target, both arms watched for as long as the one with fewer steps was."""
    both = pd.concat([family.rows_of(name, rows) for name in (arm, str(family.comparison.baseline))])
    return percent(family, arm, with_restricted_steps(both), "_steps")


def with_restricted_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the steps to target up to their shortest horizon, which those count that got there later."""
    columns = [rows[name] for name in ("steps_to_target", "steps_censored_at") if name in rows]
    if not columns:
        return rows
    steps = pd.concat(columns, axis=1).astype("float64").bfill(axis=1).iloc[:, 0]
    return rows.assign(_steps=steps.clip(upper=rows["steps"].min()) if "steps" in rows else steps)


def percent(family: Family, arm: str, rows: pd.DataFrame, column: str) -> Number | None:
    """Return 100 (mean arm - mean baseline) / mean baseline over replicates, with Fieller's interval."""
    if column not in rows:
        return None
    pairing = family.compared(arm, rows, column)
    ours, theirs = np.array(pairing.ours), np.array(pairing.theirs)
    if len(theirs) == 0 or theirs.mean() == 0:
        return None
    return number(statistics.ratio_of_means(100 * (ours - theirs), theirs))
