"""Tables with known answers: the students of a study, their losses given by rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.plan import Plan
from orchestrator.report.comparison import summarise
from orchestrator.report.summary import Summary
from orchestrator.store import Store
from orchestrator.study import Study
from tests.orchestrator.synthetic import planned, rank_study

Loss = Callable[[int, str, int], float | None]


def students(
    ranks: Sequence[int], seeds: Callable[[int], Sequence[int]], loss: Loss, inits: Sequence[str] = ("random", "svd")
) -> pd.DataFrame:
    """Return the rows of a tidy table; a loss of None is a run that is still to come."""
    rows: list[dict[str, Any]] = [
        {"run_id": "teacher-0", "stage": "teacher", "status": "done", "test_loss": 1.0},
        {"run_id": "dataset-0", "stage": "dataset", "status": "done"},
    ]
    for rank in ranks:
        for init in inits:
            for seed in seeds(rank):
                value = loss(rank, init, seed)
                about = {
                    "run_id": f"{init}-{rank}-{seed}",
                    "stage": "student",
                    "rank": rank,
                    "init": init,
                    "seed": seed,
                }
                rows.append({**about, "status": "pending" if value is None else "done", "test_loss": value})
    frame = pd.DataFrame(rows).assign(subject_id=None, name=lambda t: t["run_id"])
    return frame.astype({"rank": "Int64", "seed": "Int64"})


def study_of(table: pd.DataFrame, **comparison: Any) -> Study:
    """Return the study that the table is of."""
    ours = table[table["stage"] == "student"]
    ranks, seeds = (tuple(sorted({int(value) for value in ours[name]})) for name in ("rank", "seed"))
    inits = tuple(dict.fromkeys(ours["init"]))
    study = rank_study(ranks=ranks, inits=inits).with_axis("student.seed", seeds)
    assert study.comparison is not None
    return replace(study, comparison=replace(study.comparison, **comparison))


def summarised(table: pd.DataFrame, folder: Path, command: str = "", **comparison: Any) -> Summary:
    """Return what a report says of the table, and of a plan of the same runs."""
    study, store = study_of(table, **comparison), Store(folder)
    return summarise(planned(study, store), table, {}, store, command=command)


def of_the_table(table: pd.DataFrame, folder: Path, **comparison: Any) -> Summary:
    """Return what a report says of the table alone: quick, and without commands that would decide."""
    return summarise(Plan(study_of(table, **comparison), ()), table, {}, Store(folder))
