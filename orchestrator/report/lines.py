"""The lines of the comparison: base, teacher, the SVD that was not trained, and every arm at every rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from orchestrator import statistics
from orchestrator.record import Record
from orchestrator.report.differences import number
from orchestrator.report.family import Family
from orchestrator.report.measures import MEASURES
from orchestrator.report.summary import Kind, Line, Number, Steps
from orchestrator.results import arm_stage
from orchestrator.study import Study
from trainables.base import Scalar


def references(family: Family) -> Iterator[Line]:
    """Yield the lines of base model and teacher, and of what else the study tests that is no arm."""
    for stage in reference_stages(family.study):
        rows = family.table[family.table["stage"] == stage]
        if len(rows):
            numbers = _numbers(rows)
            if stage == "base_model":
                numbers.pop("seconds", None)
            kind = KINDS.get(stage, "reference")
            gap = _gap_closed(family, rows) if kind == "reference" else None
            numbers |= {"gap_closed": gap} if gap else {}
            yield Line(label=stage.replace("_", " "), kind=kind, stage=stage, numbers=numbers, **_fate(rows))


KINDS: Mapping[str, Kind] = {"base_model": "base", "teacher": "teacher"}
"""What a stage's line is; those of other stages are references."""


def reference_stages(study: Study) -> list[str]:
    """Return base model and teacher, then what other stages the study tests but for students and truncated teachers."""
    tested = [stage.inputs.get("subject", ()) for stage in study.stages.values()]
    named = [name for names in tested for name in (names if isinstance(names, tuple) else (names,))]
    others = [name for name in named if isinstance(name, str) and name not in ("svd_export", study.compared_stage)]
    return list(dict.fromkeys([*KINDS, *others]))


def arm_lines(family: Family, records: Mapping[str, Record]) -> Iterator[Line]:
    """Yield, for every rank, the SVD that was not trained and then each arm."""
    for group, rows in family.cells():
        yield from untrained(family, group)
        for arm in family.arms or [""]:
            mine = family.rows_of(arm, rows)
            if len(mine) == 0:
                continue
            numbers = _numbers(mine) | energy(mine, group, records)
            gap = _gap_closed(family, mine)
            numbers |= {"gap_closed": gap} if gap else {}
            label = arm or arm_stage(family.study)
            yield Line(label=label, kind="arm", group=group, numbers=numbers, steps=_steps(mine), **_fate(mine))


def untrained(family: Family, group: Mapping[str, Scalar]) -> Iterator[Line]:
    """Yield the line of the teacher truncated to this rank and not trained, if it was evaluated."""
    table = family.table
    if "subject" not in table:
        return
    rows = table[(table["stage"] == "evaluate") & (table["subject"] == "svd_export")]
    for column, value in group.items():
        rows = rows[rows[column].isna() | (rows[column] == value)] if column in rows else rows
    if len(rows):
        numbers = _numbers(rows)
        numbers.pop("seconds", None)
        if "energy" in rows and (kept := estimated(rows["energy"])):
            numbers["energy"] = kept
        gap = _gap_closed(family, rows)
        numbers |= {"gap_closed": gap} if gap else {}
        yield Line(label="svd, untrained", kind="untrained", group=dict(group), numbers=numbers, **_fate(rows))


def _numbers(rows: pd.DataFrame) -> dict[str, Number]:
    done = rows[rows["status"] == "done"]
    found = {m.key: estimated(done[m.source]) for m in MEASURES if m.source and m.source in done}
    numbers = {key: value for key, value in found.items() if value is not None}
    for key in ("accuracy", "share"):
        if key in numbers:
            numbers[key] = _clipped(numbers[key])
    return numbers


def energy(rows: pd.DataFrame, group: Mapping[str, Scalar], records: Mapping[str, Record]) -> dict[str, Number]:
    """Return the energy that the export of these students keeps at their rank; nothing for arms that read none."""
    inputs = [records[run_id].inputs for run_id in rows["run_id"] if run_id in records]
    exports = {reads["svd_export"] for reads in inputs if "svd_export" in reads}
    kept = [records[export].metrics.get(f"energy_{group.get('rank')}") for export in exports if export in records]
    energy = estimated(pd.Series([value for value in kept if isinstance(value, int | float)], dtype="float64"))
    return {"energy": energy} if energy else {}


def _gap_closed(family: Family, rows: pd.DataFrame) -> Number | None:
    """Return the part of the way from base to teacher that these runs have gone, in the primary outcome."""
    metric = family.comparison.metric
    if metric not in rows:
        return None
    done = rows[rows[metric].notna()]
    ends = [[family.reference(stage, row) for _, row in done.iterrows()] for stage in ("base_model", "teacher")]
    if len(done) == 0 or any(value is None for end in ends for value in end):
        return None
    base, teacher = ([float(value) for value in end if value is not None] for end in ends)
    students = done[metric].astype(float).tolist()
    gap = statistics.gap_closed(base, teacher, students, higher_is_better=family.comparison.higher_is_better)
    return number(gap) if gap else None


def gap_note(family: Family) -> str:
    """Return what to say where there is no gap to close: a teacher that did not improve on the base."""
    metric, higher = family.comparison.metric, family.comparison.higher_is_better
    if metric not in family.table:
        return ""
    base, teacher = (family.table[family.table["stage"] == s][metric].dropna() for s in ("base_model", "teacher"))
    if len(base) == 0 or len(teacher) == 0 or (teacher.mean() - base.mean()) * (1 if higher else -1) > 0:
        return ""
    name = metric.replace("_", " ")
    return f"The teacher did not improve on the base ({name} {teacher.mean():.3g} against {base.mean():.3g}): no gap."


def _steps(rows: pd.DataFrame) -> Steps | None:
    if "target_loss" not in rows:
        return None
    known = reached_or_censored(rows)
    if not known:
        return None
    summary = statistics.steps_to_target([step for step, _ in known], max(horizon for _, horizon in known))
    return Steps(median=summary.median, reached=summary.reached, n=summary.n, horizon=summary.horizon)


def reached_or_censored(rows: pd.DataFrame) -> list[tuple[float | None, int]]:
    """Return each run's step of the first hit (None: none) and its horizon; runs without an answer are left out."""
    found: list[tuple[float | None, int]] = []
    for _, row in rows.iterrows():
        hit, censored = row.get("steps_to_target"), row.get("steps_censored_at")
        if pd.notna(hit):
            found.append((float(hit), int(row["steps"]) if pd.notna(row.get("steps")) else int(hit)))
        elif pd.notna(censored):
            found.append((None, int(censored)))
    return found


def _fate(rows: pd.DataFrame) -> dict[str, Any]:
    counts = Counter(rows["status"])
    done = counts.pop("done", 0)
    return {"planned": len(rows), "done": done, "lost": dict(sorted(counts.items()))}


def estimated(values: pd.Series[Any]) -> Number | None:
    """Return the mean of the values there are, with its t interval; None for none."""
    known = values.dropna().astype("float64")
    return number(statistics.mean_interval(known.to_numpy())) if len(known) else None


def _clipped(value: Number) -> Number:
    """Return a share with its interval kept within 0 and 1."""
    if value.low is None or value.high is None:
        return value
    return value.model_copy(update={"low": max(0.0, value.low), "high": min(1.0, value.high)})
