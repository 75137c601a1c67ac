"""From the tidy table to what the report says: cells with intervals, paired differences, verdicts, sections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set

import pandas as pd

from orchestrator.plan import Plan
from orchestrator.record import Record
from orchestrator.report import choices, claims
from orchestrator.report.claims.basis import Basis
from orchestrator.report.claims.decide import deciding
from orchestrator.report.claims.oscillation import with_oscillation
from orchestrator.report.claims.words import told_by_arm
from orchestrator.report.differences import Judged, judge
from orchestrator.report.family import Family
from orchestrator.report.items import ItemView, by_item, with_accuracy
from orchestrator.report.lines import arm_lines, gap_note, references
from orchestrator.report.quotes import quotes
from orchestrator.report.summary import Failure, Summary
from orchestrator.report.verdicts import design_note
from orchestrator.store import Store
from orchestrator.study import Comparison, setting_of


def summarise(
    plan: Plan, table: pd.DataFrame, records: Mapping[str, Record], store: Store, *, command: str = ""
) -> Summary:
    """Return everything the report says of these records; `command` is what the deciding commands are made from."""
    study, family = plan.study, Family(plan.study, with_oscillation(table, records))
    comparison = family.comparison
    view = ItemView.read(plan, store, family, records)
    judged, of_items = by_item(view, judge(family, scope(family)))
    differences = deciding(plan, judged, command)
    chosen = filter(None, [choices.section(plan, differences, command)])
    lines = [with_accuracy(view, line) for line in (*references(family), *arm_lines(family, records))]
    return Summary(
        study=study.name,
        scale=study.scale,
        description=study.description,
        metric=comparison.metric,
        higher_is_better=comparison.higher_is_better,
        alpha=comparison.alpha,
        margin=comparison.margin,
        looks=list(comparison.looks),
        family=len(differences),
        method=judged.method,
        method_reason=judged.reason,
        counted=judged.counted,
        scope=scope(family),
        group_names=family.groups,
        arm_name=setting_of(comparison.arm),
        target=_target(family.table, comparison),
        counts=dict(Counter(table["status"])),
        lines=lines,
        differences=differences,
        quotes=list(quotes(family)),
        gap_note=gap_note(family),
        design_note=_design_note(judged, comparison),
        failures=[_failure(plan, record) for record in records.values() if record.status != "done"],
        notes=[*study.notes, *_settings_by_arm(family, {item.setting for item in plan.selections})],
        sections=[*chosen, *of_items, *claims.sections(Basis(plan, store, records, family, judged, lines))],
    )


def scope(family: Family) -> str:
    """Return for what the verdicts hold: one teacher, one split and the selected settings are luck that runs share."""
    teachers, splits = ((family.table["stage"] == stage).sum() for stage in ("teacher", "dataset"))
    who = "this teacher" if teachers <= 1 else f"these {teachers} teachers"
    where = "split" if splits <= 1 else f"these {splits} splits"
    return ", ".join(filter(None, [f"for {who} and {where}", family.study.at_selected]))


# -- small things -----------------------------------------------------------------------------------------


def _target(table: pd.DataFrame, comparison: Comparison) -> str:
    if "target_loss" not in table:
        return ""
    values = sorted({round(float(value), 6) for value in table["target_loss"].dropna()})
    if not values:
        return ""
    shown = f"{values[0]:.4g}" if len(values) == 1 else f"{values[0]:.4g} to {values[-1]:.4g}, by teacher"
    return f"held-out loss {shown} (the teacher's + {comparison.target_margin:g})"


def _settings_by_arm(family: Family, selected: Set[str]) -> list[str]:
    """Return a note for every setting that differs between the arms, such as alpha; selected ones have a table."""
    told = [name for name in ("learning_rate", "lora_alpha", "steps", "batch_size") if name not in selected]
    settings = [name for name in told if name in family.rows]
    notes = []
    for name in settings:
        rows = (
            family.rows[family.rows["steps"] != 0]
            if name == "learning_rate" and "steps" in family.rows
            else family.rows
        )
        of_arm = {
            arm: ", ".join(f"{v:g}" for v in sorted(set(family.rows_of(arm, rows)[name].dropna())))
            for arm in family.arms
        }
        if len(set(of_arm.values()) - {""}) > 1:
            notes.append(f"{name.replace('_', ' ')} by arm: {told_by_arm(of_arm)}")
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


def _design_note(judged: Judged, comparison: Comparison) -> str:
    planned = min((item.planned for item in judged.differences), default=0)
    if not judged.differences:
        return ""
    return design_note(planned, len(judged.differences), comparison.alpha, judged.method, judged.looks)
