"""From the tidy table to what the report says: cells with intervals, paired differences, verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from orchestrator import statistics
from orchestrator.freshness import PENDING
from orchestrator.plan import Plan
from orchestrator.report.family import Family
from orchestrator.report.items import ItemView, by_item
from orchestrator.report.measures import MEASURES
from orchestrator.report.summary import Difference, Failure, Line, Number, Quote, Steps, Summary
from orchestrator.report.verdicts import Evidence, design_note, sentence, verdict
from orchestrator.results import arm_stage
from orchestrator.store import Record, Store
from orchestrator.study import Comparison
from trainables.base import Scalar


def summarise(plan: Plan, table: pd.DataFrame, records: Mapping[str, Record], store: Store) -> Summary:
    """Return everything the report says of these records."""
    study, family = plan.study, Family(plan.study, table)
    comparison = family.comparison
    differences = compare(family) if family.arm else []
    lines = [*references(family), *arm_lines(family, records)]
    view = ItemView.read(plan, store, family, records)
    differences, lines, sections = by_item(view, differences, lines)
    return Summary(
        study=study.name,
        scale=study.scale,
        description=study.description,
        metric=comparison.metric,
        higher_is_better=comparison.higher_is_better,
        alpha=comparison.alpha,
        family=len(differences),
        scope=scope(table, family),
        group_names=family.groups,
        target=_target(table, comparison),
        counts=dict(Counter(table["status"])),
        lines=lines,
        differences=differences,
        quotes=list(quotes(family)),
        gap_note=_gap_note(family),
        design_note=_design_note(differences, comparison.alpha),
        failures=[_failure(plan, record) for record in records.values() if record.status != "done"],
        notes=[*study.notes, *_settings_by_arm(family)],
        sections=sections,
    )


def scope(table: pd.DataFrame, family: Family) -> str:
    """Return for what the verdicts hold: one teacher and one split are luck that all students share."""
    teachers, splits = ((table["stage"] == stage).sum() for stage in ("teacher", "dataset"))
    who = "this teacher" if teachers <= 1 else f"these {teachers} teachers"
    where = "split" if splits <= 1 else f"these {splits} splits"
    return f"for {who} and {where}"


# -- lines of the comparison ------------------------------------------------------------------------------


def references(family: Family) -> Iterator[Line]:
    """Yield the lines of base model and teacher."""
    for kind, stage, label in (("base", "base_model", "base model"), ("teacher", "teacher", "teacher")):
        rows = family.table[family.table["stage"] == stage]
        if len(rows):
            numbers = _numbers(rows)
            if stage == "base_model":
                numbers.pop("seconds", None)
            yield Line(label=label, kind=kind, numbers=numbers, **_fate(rows))


def arm_lines(family: Family, records: Mapping[str, Record]) -> Iterator[Line]:
    """Yield, for every rank, the SVD that was not trained and then each arm."""
    for group, rows in family.cells():
        yield from _untrained(family, group)
        for arm in family.arms or [""]:
            mine = family.rows_of(arm, rows)
            if len(mine) == 0:
                continue
            numbers = _numbers(mine) | _energy(mine, group, records)
            gap = _gap_closed(family, mine)
            numbers |= {"gap_closed": gap} if gap else {}
            label = arm or arm_stage(family.study)
            yield Line(label=label, kind="arm", group=group, numbers=numbers, steps=_steps(mine), **_fate(mine))


def _untrained(family: Family, group: Mapping[str, Scalar]) -> Iterator[Line]:
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
        if "energy" in rows and (kept := _estimated(rows["energy"])):
            numbers["energy"] = kept
        gap = _gap_closed(family, rows)
        numbers |= {"gap_closed": gap} if gap else {}
        yield Line(label="svd, untrained", kind="untrained", group=dict(group), numbers=numbers, **_fate(rows))


def _numbers(rows: pd.DataFrame) -> dict[str, Number]:
    done = rows[rows["status"] == "done"]
    found = {m.key: _estimated(done[m.source]) for m in MEASURES if m.source and m.source in done}
    numbers = {key: value for key, value in found.items() if value is not None}
    for key in ("accuracy", "share"):
        if key in numbers:
            numbers[key] = _clipped(numbers[key])
    return numbers


def _energy(rows: pd.DataFrame, group: Mapping[str, Scalar], records: Mapping[str, Record]) -> dict[str, Number]:
    """Return the energy that the export of these students keeps at their rank; nothing for arms that read none."""
    inputs = [records[run_id].inputs for run_id in rows["run_id"] if run_id in records]
    exports = {reads["svd_export"] for reads in inputs if "svd_export" in reads}
    kept = [records[export].metrics.get(f"energy_{group.get('rank')}") for export in exports if export in records]
    energy = _estimated(pd.Series([value for value in kept if isinstance(value, int | float)], dtype="float64"))
    return {"energy": energy} if energy else {}


def _gap_closed(family: Family, rows: pd.DataFrame) -> Number | None:
    """Return the part of the way from base to teacher that these runs have gone, in the primary outcome."""
    metric = family.comparison.metric
    if metric not in rows:
        return None
    done = rows[rows[metric].notna()]
    ends = [[_reference(family, stage, row) for _, row in done.iterrows()] for stage in ("base_model", "teacher")]
    if len(done) == 0 or any(value is None for end in ends for value in end):
        return None
    base, teacher = ([float(value) for value in end if value is not None] for end in ends)
    students = done[metric].astype(float).tolist()
    gap = statistics.gap_closed(base, teacher, students, higher_is_better=family.comparison.higher_is_better)
    return _number(gap) if gap else None


def _reference(family: Family, stage: str, row: pd.Series[Any]) -> float | None:
    """Return the primary outcome of the base or the teacher that shares this row's axes; their mean if several do."""
    metric = family.comparison.metric
    rows = family.table[family.table["stage"] == stage]
    for column in family.columns.values():
        if pd.notna(row[column]):
            rows = rows[rows[column].isna() | (rows[column] == row[column])]
    values = rows[metric].dropna().tolist() if metric in rows else []
    return float(sum(values) / len(values)) if values else None


def _gap_note(family: Family) -> str:
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
    known = _reached_or_censored(rows)
    if not known:
        return None
    summary = statistics.steps_to_target([step for step, _ in known], max(horizon for _, horizon in known))
    return Steps(median=summary.median, reached=summary.reached, n=summary.n, horizon=summary.horizon)


def _reached_or_censored(rows: pd.DataFrame) -> list[tuple[float | None, int]]:
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


# -- differences and verdicts -----------------------------------------------------------------------------


def compare(family: Family) -> list[Difference]:
    """Return every arm against the baseline in every group, with Holm's adjustment over all of them."""
    comparisons = [(group, rows, arm) for group, rows in family.cells() for arm in family.arms[1:]]
    if not family.arms or family.arms[0] != str(family.comparison.baseline):
        return []
    tests = [_test(family, arm, rows) for _, rows, arm in comparisons]
    adjusted = statistics.holm([test.paired.p if test.paired and not test.pending else 1.0 for test in tests])
    size = len(comparisons)
    return [
        _difference(family, arm, group, test, p if test.paired else None, size)
        for (group, _, arm), test, p in zip(comparisons, tests, adjusted, strict=True)
    ]


@dataclass(frozen=True)
class _Test:
    values: list[float]
    planned: int
    pending: int
    paired: statistics.Paired | None


def _test(family: Family, arm: str, rows: pd.DataFrame) -> _Test:
    """Test one arm against the baseline; nothing is tested while planned pairs are still to come."""
    metric = family.comparison.metric
    if metric not in rows:
        rows = rows.assign(**{metric: float("nan")})
    ours, theirs = family.paired(arm, rows.assign(_pending=_is_pending(family, rows)), [metric, "_pending"])
    values = (ours[metric] - theirs[metric]).dropna()
    missing = (ours[metric] - theirs[metric]).isna()
    waiting = (ours["_pending"].fillna(0) > 0) | (theirs["_pending"].fillna(0) > 0)
    pending = int((missing & waiting).sum())
    paired = statistics.sign_flip(values.to_numpy()) if len(values) else None
    return _Test([float(value) for value in values], len(ours), pending, paired)


def _is_pending(family: Family, rows: pd.DataFrame) -> pd.Series[Any]:
    """Say of each run whether its primary outcome may still come: the run or its evaluation is pending."""
    table = family.table
    waiting = set(table[table["status"] == PENDING]["run_id"])
    if "subject_id" in table:
        waiting |= set(table[table["status"] == PENDING]["subject_id"].dropna())
    return rows["run_id"].isin(waiting).astype(float)


def _difference(
    family: Family, arm: str, group: dict[str, Scalar], test: _Test, p_adjusted: float | None, size: int
) -> Difference:
    comparison, paired = family.comparison, test.paired
    is_tested = paired is not None and not test.pending
    estimate = _number(paired.estimate) if paired else None
    evidence = Evidence(
        arm=arm,
        baseline=str(comparison.baseline),
        group=group,
        metric=comparison.metric,
        higher_is_better=comparison.higher_is_better,
        estimate=estimate,
        p=paired.p if paired and is_tested else None,
        p_adjusted=p_adjusted if is_tested else None,
        planned=test.planned,
        pending=test.pending,
        family=size,
        alpha=comparison.alpha,
        scope=scope(family.table, family),
    )
    return Difference(
        arm=arm,
        baseline=evidence.baseline,
        group=group,
        pairs=test.values,
        planned=test.planned,
        estimate=estimate,
        interval_method=paired.estimate.interval.method if paired and paired.estimate.interval else "",
        p=evidence.p,
        p_adjusted=evidence.p_adjusted,
        is_exact=paired.is_exact if paired else True,
        verdict=verdict(evidence),
        sentence=sentence(evidence),
    )


def _design_note(differences: list[Difference], alpha: float) -> str:
    planned = min((item.planned for item in differences), default=0)
    return design_note(planned, len(differences), alpha) if differences else ""


# -- the percentages that first users quote ---------------------------------------------------------------


def quotes(family: Family) -> Iterator[Quote]:
    """Yield, per group and arm, initial loss, steps to target and final loss in percent of the baseline's mean."""
    for group, rows in family.cells() if family.arm else ():
        for arm in family.arms[1:]:
            yield Quote(
                arm=arm,
                baseline=str(family.comparison.baseline),
                group=group,
                initial_loss=_percent(family, arm, rows, "initial_eval_loss"),
                steps=_percent(family, arm, _with_restricted_steps(rows), "_steps"),
                final_loss=_percent(family, arm, rows, "final_eval_loss"),
            )


def _with_restricted_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the steps to target, those that never got there counted with the horizon."""
    columns = [rows[name] for name in ("steps_to_target", "steps_censored_at") if name in rows]
    if not columns:
        return rows
    return rows.assign(_steps=pd.concat(columns, axis=1).astype("float64").bfill(axis=1).iloc[:, 0])


def _percent(family: Family, arm: str, rows: pd.DataFrame, column: str) -> Number | None:
    """Return 100 (mean arm - mean baseline) / mean baseline over pairs, with Fieller's interval."""
    if column not in rows:
        return None
    ours, theirs = family.paired(arm, rows, [column])
    pairs = pd.DataFrame({"ours": ours[column], "theirs": theirs[column]}).dropna().astype(float)
    if len(pairs) == 0 or pairs["theirs"].mean() == 0:
        return None
    ratio = statistics.ratio_of_means(100 * (pairs["ours"] - pairs["theirs"]).to_numpy(), pairs["theirs"].to_numpy())
    return _number(ratio)


# -- small things -----------------------------------------------------------------------------------------


def _target(table: pd.DataFrame, comparison: Comparison) -> str:
    if "target_loss" not in table:
        return ""
    values = sorted({round(float(value), 6) for value in table["target_loss"].dropna()})
    if not values:
        return ""
    shown = f"{values[0]:.4g}" if len(values) == 1 else f"{values[0]:.4g} to {values[-1]:.4g}, by teacher"
    return f"held-out loss {shown} (the teacher's + {comparison.target_margin:g})"


def _settings_by_arm(family: Family) -> list[str]:
    """Return a note for every setting that differs between the arms, such as the learning rate."""
    settings = [name for name in ("learning_rate", "lora_alpha", "steps", "batch_size") if name in family.rows]
    notes = []
    for name in settings:
        of_arm = {arm: sorted(set(family.rows_of(arm, family.rows)[name].dropna())) for arm in family.arms}
        if len({tuple(values) for values in of_arm.values()}) > 1:
            told = "; ".join(f"{arm} {', '.join(f'{v:g}' for v in values)}" for arm, values in of_arm.items())
            notes.append(f"{name.replace('_', ' ')} by arm: {told}")
    return notes


def _failure(plan: Plan, record: Record) -> Failure:
    is_final = record.status == "diverged"
    folder = f"artefacts/{record.id}" if is_final else f"failures/{record.id}/{record.provenance.attempt}"
    return Failure(
        name=plan[record.id].name,
        run_id=record.id,
        status=record.status,
        error=record.error or "",
        log=f"{folder}/log.txt",
    )


def _estimated(values: pd.Series[Any]) -> Number | None:
    known = values.dropna().astype("float64")
    return _number(statistics.mean_interval(known.to_numpy())) if len(known) else None


def _number(estimate: statistics.Estimate) -> Number:
    low, high = (estimate.interval.low, estimate.interval.high) if estimate.interval else (None, None)
    return Number(mean=estimate.mean, n=estimate.n, low=low, high=high)


def _clipped(value: Number) -> Number:
    """Return a share with its interval kept within 0 and 1."""
    if value.low is None or value.high is None:
        return value
    return value.model_copy(update={"low": max(0.0, value.low), "high": min(1.0, value.high)})
