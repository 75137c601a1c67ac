"""Sections of a study of known effect, from records to what they claim."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.plan import Plan
from orchestrator.record import Record
from orchestrator.report.claims import expectations
from orchestrator.report.claims.causes import late_fall
from orchestrator.report.comparison import summarise
from orchestrator.report.markdown import sections as as_markdown
from orchestrator.report.sections import Section
from orchestrator.report.summary import Number, Summary
from orchestrator.results import tidy
from orchestrator.store import Store
from tests.orchestrator.synthetic import filled, rank_study

Change = Callable[[Record], Record]


def summary_of(plan: Plan, store: Store, change: Change = lambda record: record, extra: Any = None) -> Summary:
    """Return what the report says; records may be changed first, and rows of tuning runs added."""
    records = {run_id: change(record) for run_id, record in store.records(run.id for run in plan.runs).items()}
    table = tidy(plan, store)
    table = table if extra is None else extra(table)
    return summarise(plan, table, records, store)


def section(summary: Summary, name: str) -> Section:
    return next(item for item in summary.sections if item.name == name)


def rows(summary: Summary, name: str) -> list[dict[str, str]]:
    grid, *_ = section(summary, name).grids
    return [dict(zip(grid.header, row, strict=True)) for row in grid.rows]


def made(folder: Path, **study: Any) -> tuple[Plan, Store]:
    margin = study.pop("margin", None)
    found = rank_study(**{"ranks": (4, 16), "seeds": 6, **study})
    assert found.comparison is not None
    found = replace(found, comparison=replace(found.comparison, margin=margin))
    _, plan, store = filled(folder, found)
    return plan, store


@pytest.fixture(scope="module")
def better(tmp_path_factory):
    """SVD is better by .2, by a margin of .1 as good as its teacher."""
    return made(tmp_path_factory.mktemp("better"), margin=0.1)


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """SVD gains nothing by its start: it ends where random does, and above where it began."""
    return made(tmp_path_factory.mktemp("alike"), effect=0.0, ranks=(4,))


# -- ranks ------------------------------------------------------------------------------------------------


def test_the_smallest_rank_not_inferior_to_the_teacher_is_named_per_arm(better):
    told = section(summary_of(*better), "ranks").paragraphs
    assert "Not inferior to the teacher by the margin of 0.1: random at no rank; svd from rank 4 on." in told[0]
    assert "Does svd's difference depend on the rank (4 and 16)?" in told[1]


def test_the_difference_to_the_teacher_is_that_of_the_test_losses(better):
    plan, store = better
    table = tidy(plan, store)
    teacher = float(table[table["stage"] == "teacher"]["test_loss"].iloc[0])
    mine = table[(table["stage"] == "student") & (table["rank"] == 4) & (table["init"] == "random")]["test_loss"]
    row = next(row for row in rows(summary_of(plan, store), "ranks") if row["arm"] == "random" and row["rank"] == "4")
    assert row["student − teacher in test loss"].startswith(f"+{mine.mean() - teacher:.2f}")
    assert row["p (not inferior)"] == "1.00"


def test_without_a_margin_no_rank_is_called_as_good_as_the_teacher(alike):
    assert section(summary_of(*alike), "ranks").paragraphs[0].startswith("No margin was declared")


# -- expectations -----------------------------------------------------------------------------------------


def answers(summary: Summary) -> dict[str, str]:
    return {row["expectation"]: row["answer"] for row in rows(summary, "expectations")}


def test_every_expectation_of_the_first_users_is_answered(better):
    found = answers(summary_of(*better))
    assert len(found) == 9
    assert all(answer.startswith(("met", "not met", "not testable")) for answer in found.values())


def test_energy_and_error_are_answered_by_the_exports_numbers_and_the_contradiction_is_named(better):
    """The fake export keeps 1 - .6 r^-.65: .756 at 4 and .901 at 16, errors of .494 and .315."""
    summary = summary_of(*better)
    found = answers(summary)
    assert found["energy at r above 0.85"] == "not met: only at r 16"
    assert found["relative error at r below 0.15"] == "not met: at no rank"
    measured = {row["expectation"]: row["measured"] for row in rows(summary, "expectations")}
    assert measured["relative error at r below 0.05"] == "r 4: 0.494; r 16: 0.315, one teacher"
    text = " ".join(section(summary, "expectations").paragraphs)
    assert "an energy of 0.85 is an error of 0.39" in text
    assert "0.15 needs an energy of 0.9775, 0.05 needs an energy of 0.9975" in text


def test_energy_above_the_threshold_at_every_rank_is_met(better):
    def full(record: Record) -> Record:
        energies = {name: 0.999 for name in record.metrics if name.startswith("energy_")}
        return record.model_copy(update={"metrics": {**record.metrics, **energies}})

    found = answers(summary_of(*better, full))
    assert found["energy at r above 0.85"] == found["relative error at r below 0.05"] == "met"


def test_a_power_law_is_no_exponential_decay_and_an_exponential_one_is(tmp_path):
    plan, store = made(tmp_path, ranks=(4,), seeds=1)
    name = "spectrum decays exponentially"
    assert answers(summary_of(plan, store))[name].startswith("not met: a power law fits as well or better")
    path = store.artefact(plan.of_stage("svd_export")[0].id) / "spectrum.csv"
    table = pd.read_csv(path)
    table["sigma"] = [math.exp(-0.1 * index) for index in table["index"]]
    table.to_csv(path, index=False)
    assert answers(summary_of(plan, store))[name].startswith("met")


def by_depth(plan: Plan, store: Store, blocks: int, gain: float) -> None:
    path = store.artefact(plan.of_stage("svd_export")[0].id) / "by_depth.csv"
    lines = [
        f"{k},{kind},{0.5 + at * (gain + 0.01 * k)}"
        for k in range(blocks)
        for at, kind in enumerate(("mlp", "attention"))
    ]
    path.write_text("\n".join(["depth,group,energy_4", *lines]))


def test_attention_is_lower_rank_only_where_a_paired_test_over_blocks_says_so(tmp_path):
    plan, store = made(tmp_path, ranks=(4,), seeds=1)
    name = "attention is lower-rank than MLP"
    assert answers(summary_of(plan, store))[name].startswith("not testable")
    by_depth(plan, store, 8, 0.1)
    assert answers(summary_of(plan, store))[name].startswith("met")
    by_depth(plan, store, 8, -0.2)
    assert answers(summary_of(plan, store))[name] == "not met"
    by_depth(plan, store, 3, 0.1)
    assert "3 blocks cannot give" in answers(summary_of(plan, store))[name]


def test_the_students_expectations_follow_their_effects(better, alike):
    good, none = (answers(summary_of(*found)) for found in (better, alike))
    assert good["SVD starts lower in held-out loss"].startswith("met: by construction")
    steps = "not testable: by construction: every svd run is at the target before its first step"
    assert good["20 to 40 % fewer steps to target"] == steps
    order = "teacher < SVD < random in test loss"
    assert good[order] == "not met: svd − teacher: not met", "svd ends at the teacher's loss, not above it"
    assert "svd − random: not met" in none[order]


def test_oscillation_is_judged_against_the_expectation_of_less(better):
    """The fakes' curves carry equal noise: what is left of the difference is random's steeper fall."""
    found = {row["arms"]: row for row in rows(summary_of(*better), "oscillation")}
    assert found["svd − random"]["difference in oscillation"].startswith("−0.0")


def test_too_few_seeds_are_not_testable_whatever_they_show(tmp_path):
    found = answers(summary_of(*made(tmp_path, ranks=(4,), seeds=3)))
    assert found["SVD starts lower in held-out loss"] == "not testable: 3 pairs cannot give a p of 0.05"


def test_a_rank_that_starts_at_the_target_is_no_evidence_for_fewer_steps_at_another(better):
    def some_steps(table: pd.DataFrame) -> pd.DataFrame:
        is_late = (table["stage"] == "student") & (table["init"] == "svd") & (table["rank"] == 4)
        return table.assign(steps_to_target=table["steps_to_target"].mask(is_late, 10.0))

    found = answers(summary_of(*better, extra=some_steps))["20 to 40 % fewer steps to target"]
    assert found.startswith("met: 20 % or more by the whole 95 % interval")
    assert found.endswith("by construction at rank 16: every svd run is at the target before its first step")


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(-45, -21, "met"), (-19, 5, "not met"), (-30, -10, "not testable"), (None, None, "not testable")],
)
def test_fewer_steps_asks_for_the_whole_interval(low, high, answer):
    assert expectations._fewer(Number(mean=-20, n=6, low=low, high=high)) == answer


def test_a_study_of_other_arms_has_no_expectations_of_svd(tmp_path):
    plan, store = made(tmp_path, ranks=(4,), inits=("random", "pissa"), seeds=2)
    assert "expectations" not in {item.name for item in summary_of(plan, store).sections}


# -- costs ------------------------------------------------------------------------------------------------


def with_tokens(record: Record) -> Record:
    """Give runs 1,000 counted tokens and time on two cores: 10 s a student, 30 s the teacher, 6 the export."""
    provenance = record.provenance.model_copy(
        update={"seconds": {"teacher": 30.0, "student": 10.0, "svd_export": 6.0}.get(record.stage, 1.0)}
    )
    provenance = provenance.model_copy(update={"place": {"cpus": 2, "workers": 1, "gpus": 0}})
    metrics = dict(record.metrics)
    if record.stage in ("teacher", "student"):
        metrics |= {"tokens": 1000}
    if record.stage == "dataset":
        metrics |= {"tokens": 300, "completion_tokens": 100}
    return record.model_copy(update={"provenance": provenance, "metrics": metrics})


def test_costs_to_the_target_by_hand(better):
    """SVD is at the target before its first step; random never gets there, and counts in full."""
    found = {(row["rank"], row["arm"]): row for row in rows(summary_of(*better, with_tokens), "costs")}
    random, svd = found["4", "random"], found["4", "svd"]
    assert (random["reached"], random["steps"], random["seconds"]) == ("0 of 6", "≥ 20", "≥ 10")
    assert random["tokens"] == "≥ 3,000", "three times the 1,000 that the loss counts"
    total, trained = 134515008 + 305472 * 4, 305472 * 4
    assert random["FLOPs"] == f"≥ {3000 * (4 * total + 2 * trained):.2e}".replace("e+", "e")
    assert random["device-seconds"] == random["device-seconds with teacher and export"] == "≥ 20"
    assert (svd["steps"], svd["device-seconds"]) == ("0", "0")
    assert svd["device-seconds with teacher and export"] == "72", "(30 + 6) seconds on two cores"
    assert svd["FLOPs with teacher"] == f"{3000 * 6 * 134515008:.2e}".replace("e+", "e")


def test_the_teacher_pays_for_itself_after_the_students_that_save_its_cost(better):
    """72 device-seconds once, 20 saved by each student at least: four of them."""
    to_target, once = section(summary_of(*better, with_tokens), "costs").grids
    paid = dict(zip(once.header, once.rows[0], strict=True))
    assert (paid["rank"], paid["arm"], paid["device-seconds, once"]) == ("4", "svd", "72")
    assert paid["paid for, in device-seconds"] == "after at most 4 students"
    assert "6 T for full fine-tuning" in to_target.caption


# -- causes -----------------------------------------------------------------------------------------------


def causes(summary: Summary) -> dict[str, dict[str, str]]:
    return {row["cause"]: row for row in rows(summary, "why-no-effect")}


def test_a_supported_start_is_asked_for_no_cause(better):
    assert "why-no-effect" not in {item.name for item in summary_of(*better).sections}


def test_a_student_that_ends_above_its_untrained_start_has_too_high_a_rate(alike):
    summary = summary_of(*alike)
    found = causes(summary)["rate too high"]
    assert found[""] == "holds"
    assert "untrained" in found["numbers"]
    assert "held-out loss rose at first in 6 of 6 runs" in found["numbers"]
    assert "rate too high" in section(summary, "why-no-effect").paragraphs[0]


def test_a_scaling_other_than_one_is_named(alike):
    found = causes(summary_of(*alike))["scaling"]
    assert (found[""], found["numbers"]) == ("does not hold", "scaling 1")
    doubled = causes(summary_of(*alike, extra=lambda table: table.assign(lora_alpha=8.0)))["scaling"]
    assert (doubled[""], doubled["numbers"]) == ("holds", "scaling 2")
    stabilised = causes(summary_of(*alike, extra=lambda table: table.assign(lora_alpha=2.0, use_rslora=True)))[
        "scaling"
    ]
    assert stabilised["numbers"] == "scaling 1"


def test_a_truncation_that_loses_the_teachers_gain_makes_the_rank_too_small(alike):
    plan, store = alike

    def worse(table: pd.DataFrame) -> pd.DataFrame:
        is_truncated = (table["stage"] == "evaluate") & (table["subject"] == "svd_export")
        return table.assign(test_loss=table["test_loss"].mask(is_truncated, 2.6))

    assert causes(summary_of(plan, store))["rank too small"][""] == "does not hold"
    found = causes(summary_of(plan, store, extra=worse))["rank too small"]
    assert found[""] == "holds"
    assert "keeps 19 % of the teacher's gain and 0.76 of the energy" in found["numbers"]


def test_a_teacher_whose_loss_still_falls_is_not_converged(alike):
    def still_falling(record: Record) -> Record:
        if record.stage != "teacher":
            return record
        losses = [None if value is None else 3 - 0.03 * step for step, value in enumerate(record.history["eval_loss"])]
        return record.model_copy(update={"history": {**record.history, "eval_loss": losses}})

    def flat(record: Record) -> Record:
        if record.stage != "teacher":
            return record
        losses = [
            None if value is None else 3.0 if step == 0 else 1.0
            for step, value in enumerate(record.history["eval_loss"])
        ]
        return record.model_copy(update={"history": {**record.history, "eval_loss": losses}})

    plan, store = alike
    falling = causes(summary_of(plan, store, still_falling))["teacher not converged"]
    assert falling[""] == "holds"
    assert falling["numbers"].startswith("33.3 %"), "evaluations every 10 of 60 steps: the last quarter begins at 40"
    assert causes(summary_of(plan, store, flat))["teacher not converged"][""] == "does not hold"


def test_late_fall_needs_three_evaluations(alike):
    plan, store = alike
    record = store.record(plan.of_stage("teacher")[0].id)
    assert record is not None
    assert late_fall(record.model_copy(update={"history": {"step": [0, 10], "eval_loss": [2, 1]}})) is None


def test_the_lowest_rate_that_was_tried_is_said_to_be_on_the_edge(alike):
    plan, store = alike

    def tuned(table: pd.DataFrame) -> pd.DataFrame:
        mine = table[(table["stage"] == "student") & (table["init"] == "svd")]
        tried = [mine.assign(purpose="tuning", learning_rate=rate) for rate in (3e-5, 1e-4, 3e-4)]
        return pd.concat([table.assign(purpose="verdict"), *tried], ignore_index=True)

    found = causes(summary_of(plan, store, extra=tuned))["rate too high"]
    assert "rate 3e-05, the lowest tried is 3e-05" in found["numbers"]


# -- renderings -------------------------------------------------------------------------------------------


def test_sections_render_as_markdown_with_headings_tables_and_their_figures(better):
    summary = summary_of(*better)
    text = as_markdown(summary.sections, {})
    for item in summary.sections:
        assert f"## {item.title}" in text
        assert all(paragraph in text for paragraph in item.paragraphs)
    shown = Section(name="a", title="A", figures=["loss", "gone"])
    figure = "![Losses.](figures/loss.png)\n\nLosses. Numbers: [figures/loss.csv](figures/loss.csv)"
    assert as_markdown([shown], {"loss": "Losses."}) == f"## A\n\n{figure}\n"
