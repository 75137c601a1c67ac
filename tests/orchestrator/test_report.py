from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from orchestrator import report
from orchestrator.report import formatting, tables
from orchestrator.report.summary import Difference, Line, Number, Summary
from orchestrator.results import tidy
from orchestrator.statistics import sign_flip
from orchestrator.store import Store
from orchestrator.study import By
from tests.orchestrator.synthetic import fill, filled, planned, rank_study


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Seven seeds, two ranks, one student out of memory and one diverged."""
    fates = {(16, "svd", 3): "oom", (16, "random", 2): "diverged"}
    _, plan, store = filled(tmp_path_factory.mktemp("a store"), rank_study(ranks=(4, 16), fates=fates))
    folder = report.report_folder(plan, store)
    summary = report.write(plan, store, folder, command="python -m orchestrator sweep rank_study")
    return plan, store, folder, summary


def summary_of(folder: Path, **study) -> Summary:
    _, plan, store = filled(folder, rank_study(**study))
    return report.write(plan, store, report.report_folder(plan, store))


def line(summary: Summary, label: str, rank: int | None = None) -> Line:
    return next(item for item in summary.lines if item.label == label and item.group.get("rank") == rank)


def only(summary: Summary) -> Difference:
    assert len(summary.differences) == 1
    return summary.differences[0]


def text(folder: Path, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    report.terminal_table(folder).show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_report_has_all_its_files(written):
    _, _, folder, _ = written
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_symlink()}
    for name in ("results.csv", "comparison.csv", "comparison.md", "comparison.tex", "report.md", "report.json"):
        assert name in names
    for figure in ("loss_curves", "outcome_by_rank", "differences", "spectrum"):
        assert f"figures/{figure}.png" in names
        assert f"figures/{figure}.csv" in names


def test_lines_come_as_base_teacher_and_then_by_rank_untrained_and_arms(written):
    summary = written[3]
    assert [(item.label, item.group.get("rank")) for item in summary.lines] == [
        ("base model", None),
        ("teacher", None),
        *[(label, rank) for rank in (4, 16) for label in ("svd, untrained", "random", "svd")],
    ]


def test_a_cell_is_the_mean_and_t_interval_of_the_rows_in_results_csv(written):
    _, _, folder, summary = written
    table = pd.read_csv(folder / "results.csv")
    rows = table[(table["stage"] == "student") & (table["rank"] == 4) & (table["init"] == "svd")]
    cell = line(summary, "svd", 4).numbers["test_loss"]
    assert cell.mean == pytest.approx(rows["test_loss"].mean())
    assert cell.n == 7
    assert cell.high is not None
    # Student's t for six degrees of freedom is 2.447.
    assert cell.high - cell.mean == pytest.approx(2.4469 * rows["test_loss"].std() / 7**0.5, rel=1e-4)


def test_the_difference_is_the_sign_flip_test_of_the_pairs_in_results_csv(written):
    _, _, folder, summary = written
    table = pd.read_csv(folder / "results.csv")
    students = table[(table["stage"] == "student") & (table["rank"] == 4)].pivot(index="seed", columns="init")
    pairs = students["test_loss"]["svd"] - students["test_loss"]["random"]
    found, test = summary.differences[0], sign_flip(pairs.to_numpy())
    assert sorted(found.pairs) == pytest.approx(sorted(pairs))
    assert found.p == test.p == 2**-6
    assert found.p_adjusted == 2 * 2**-6
    assert found.estimate is not None
    assert test.estimate.interval is not None
    assert (found.estimate.low, found.estimate.high) == (test.estimate.interval.low, test.estimate.interval.high)
    assert found.verdict == "supported"
    assert "for this teacher and split" in found.sentence


def test_lost_runs_are_counted_named_and_leave_their_pairs_out(written):
    _, _, folder, summary = written
    assert line(summary, "svd", 16).lost == {"oom": 1}
    assert formatting.count(line(summary, "random", 16)) == "6 (1 diverged)"
    lost = summary.differences[1]
    assert len(lost.pairs) == 5
    assert lost.verdict == "inconclusive"
    assert "5 pairs of 7" in lost.sentence
    assert "cannot reach 0.05" in lost.sentence
    failures = {item.status: item for item in summary.failures}
    assert failures["oom"].error.startswith("MemoryError: no memory left")
    for item in summary.failures:
        assert (folder.parents[1] / item.log).is_file()


def test_an_arm_that_failed_altogether_shows_what_happened(tmp_path):
    fates = {(4, "svd", seed): "oom" for seed in (1, 2)}
    summary = summary_of(tmp_path, ranks=(4,), seeds=2, fates=fates)
    row = next(row for row in tables.comparison(summary).rows if row[1] == "svd")
    assert row[2] == "0 (2 OOM)"
    assert row[3] == "OOM"
    assert only(summary).estimate is None


def test_the_energy_kept_is_the_exports_at_that_rank_and_random_has_none(written):
    summary = written[3]
    assert line(summary, "svd", 16).numbers["energy"].mean == pytest.approx(1 - 0.6 * 16**-0.65)
    assert line(summary, "svd, untrained", 16).numbers["energy"].mean == pytest.approx(1 - 0.6 * 16**-0.65)
    assert "energy" not in line(summary, "random", 16).numbers


def test_gap_closed_is_one_for_the_teacher_and_zero_for_the_base_by_definition(written):
    _, _, folder, summary = written
    table = pd.read_csv(folder / "results.csv").set_index("stage")["test_loss"]
    svd = line(summary, "svd", 4).numbers
    expected = (table["base_model"] - svd["test_loss"].mean) / (table["base_model"] - table["teacher"])
    assert svd["gap_closed"].mean == pytest.approx(expected)


def test_a_teacher_that_did_not_improve_leaves_no_gap_and_the_report_says_so(tmp_path):
    summary = summary_of(tmp_path, ranks=(4,), seeds=2, teacher={"ends_at": 3.2})
    assert "did not improve on the base" in summary.gap_note
    assert all("gap_closed" not in item.numbers for item in summary.lines)
    assert summary.gap_note in (tmp_path / "reports/rank_study/comparison.md").read_text()


def test_a_design_that_cannot_conclude_is_called_under_powered_whatever_the_data(tmp_path):
    summary = summary_of(tmp_path, ranks=(4,), seeds=3, effect=0.9)
    difference = only(summary)
    assert difference.verdict == "under-powered by design"
    assert difference.p == 0.25
    assert "3 pairs and 1 comparison cannot give an adjusted p below 0.25" in summary.design_note
    assert "6 pairs could" in summary.design_note
    assert summary.design_note in (tmp_path / "reports/rank_study/report.md").read_text()


def test_no_effect_is_inconclusive_and_a_harmful_init_is_contradicted(tmp_path):
    none = summary_of(tmp_path / "none", ranks=(4,), seeds=6, effect=0.0, noise=0.2)
    harm = summary_of(tmp_path / "harm", ranks=(4,), seeds=6, effect=-0.5)
    assert only(none).verdict == "inconclusive"
    assert only(harm).verdict == "contradicted"


def test_nothing_is_tested_while_planned_pairs_are_still_to_come(tmp_path):
    study, store = rank_study(ranks=(4,)), Store(tmp_path)
    plan = planned(study, store)
    late = [run.name for run in plan.of_stage("student") if run.labels["student.seed"] == 7]
    fill(plan, store, leave_out=late)
    summary = report.write(plan, store, report.report_folder(plan, store))
    assert only(summary).verdict == "interim"
    assert only(summary).p is None
    assert len(only(summary).pairs) == 6
    assert line(summary, "svd", 4).lost == {"pending": 1}


def test_several_splits_are_replicates_and_the_scope_says_how_many(tmp_path):
    study = rank_study(ranks=(4,), seeds=3).with_axis("dataset.fold", (0, 1))
    _, plan, store = filled(tmp_path, study)
    summary = report.write(plan, store, report.report_folder(plan, store))
    assert only(summary).planned == 2, "students of one split share its luck: they are averaged"
    assert summary.counted == "n counts the 2 values of split; 6 pairs, those of one split averaged over student"
    assert summary.scope == "for these 2 teachers and these 2 splits"
    assert line(summary, "teacher").numbers["test_loss"].n == 2


def test_students_of_two_teachers_with_one_seed_are_averaged_where_random_knows_no_teacher(tmp_path):
    study = rank_study(ranks=(4,), seeds=3).with_axis("teacher.seed", (1, 2))
    _, plan, store = filled(tmp_path, study)
    assert len(plan.of_stage("student")) == 3 + 6
    assert only(report.write(plan, store, report.report_folder(plan, store))).planned == 3


def test_a_study_that_varies_something_else_too_splits_its_family_by_it(tmp_path):
    study = rank_study(ranks=(4,), seeds=2).with_axis("student.batch_size", (8, 16))
    _, plan, store = filled(tmp_path, study)
    summary = report.write(plan, store, report.report_folder(plan, store))
    assert summary.group_names == ["rank", "batch_size"]
    assert summary.family == len(summary.differences) == 2
    assert not (tmp_path / "reports/rank_study/figures/outcome_by_rank.png").exists()


def test_a_study_without_arms_or_without_comparison_still_reports(tmp_path):
    alone = summary_of(tmp_path / "alone", ranks=(4,), inits=("svd",), seeds=2)
    assert alone.differences == []
    assert line(alone, "svd", 4).done == 2
    assert "Verdict" not in (tmp_path / "alone/reports/rank_study/report.md").read_text()


def test_percentages_are_of_the_means_and_negative_is_lower(written):
    _, _, folder, summary = written
    table = pd.read_csv(folder / "results.csv")
    means = table[(table["stage"] == "student") & (table["rank"] == 4)].groupby("init")["final_eval_loss"].mean()
    quote = summary.quotes[0]
    assert quote.final_loss is not None
    assert quote.final_loss.mean == pytest.approx(100 * (means["svd"] / means["random"] - 1))
    assert quote.steps is not None
    assert quote.steps.mean == -100  # svd starts at the target, random is censored
    assert "holds by construction" in " ".join((folder / "comparison.md").read_text().split())


def test_a_loss_curve_has_the_mean_over_seeds_at_every_evaluated_step(written):
    plan, store, folder, _ = written
    curves = pd.read_csv(folder / "figures/loss_curves.csv")
    ids = [run.id for run in plan.of_stage("student") if run.labels["student.rank"] == 4 and "svd" in run.name]
    at_ten = [row["eval_loss"] for r in store.records(ids).values() for row in r.history_rows() if row["step"] == 10]
    found = curves[(curves["panel"] == "rank 4") & (curves["arm"] == "svd") & (curves["step"] == 10)].iloc[0]
    assert len(at_ten) == found["n"] == 7
    assert found["mean"] == pytest.approx(sum(at_ten) / 7)


def test_readable_names_link_to_artefacts_and_failures_by_relative_paths(written):
    plan, store, folder, _ = written
    links = {path.name: path for path in (folder / "runs").iterdir()}
    done = next(run for run in plan.of_stage("student") if run.labels["student.rank"] == 4)
    link = links[done.name.replace(" ", "-")]
    assert link.resolve() == store.artefact(done.id)
    assert not link.readlink().is_absolute()
    (failed,) = [path for name, path in links.items() if name.endswith(".failed")]
    assert (failed / "log.txt").is_file()


def test_the_report_is_current_until_a_record_or_the_study_changes(tmp_path):
    _, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=2))
    folder = report.report_folder(plan, store)
    assert not report.is_current(plan, store, folder)
    report.write(plan, store, folder)
    assert report.is_current(plan, store, folder)
    assert not report.is_current(planned(rank_study(ranks=(4,), seeds=3), store), store, folder)
    (folder / "comparison.md").rename(tmp_path / "aside")
    assert not report.is_current(plan, store, folder)
    (tmp_path / "aside").rename(folder / "comparison.md")
    store.forget(plan.of_stage("evaluate")[-1].id)
    assert not report.is_current(plan, store, folder)


def test_a_current_report_is_recognised_and_shown_without_a_library_that_computes(written, tmp_path):
    _, store, folder, _ = written
    code = f"""
import sys
from pathlib import Path
from orchestrator import report
from orchestrator.search.journal import is_recorded
from orchestrator.tracking import is_synced
from orchestrator.store import Store
from rich.console import Console
from tests.orchestrator.synthetic import planned, rank_study
store = Store(Path({str(store.root)!r}))
fates = {{(16, "svd", 3): "oom", (16, "random", 2): "diverged"}}
plan = planned(rank_study(ranks=(4, 16), fates=fates), store)
assert report.is_current(plan, store, Path({str(folder)!r}))
is_synced(plan, store)
is_recorded(plan, store)
Console(width=100).print(report.terminal_table(Path({str(folder)!r})))
heavy = {{"numpy", "pandas", "scipy", "matplotlib", "mlflow", "optuna", "torch", "ray", "jinja2"}} & set(sys.modules)
assert not heavy, heavy
"""
    # Two processes: names and labels must not depend on the order of sets.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert "supported" in done.stdout


@pytest.mark.parametrize("width", [80, 120, 160])
def test_the_terminal_table_fits_its_width_and_tells_the_verdicts(written, width):
    _, _, folder, summary = written
    shown, store_root = text(folder, width), str(folder.parents[1])
    assert max(len(row.rstrip()) for row in shown.splitlines() if store_root not in row) <= width
    assert "supported" in shown
    assert "svd, untrained" in shown
    assert "OOM" in shown
    assert str(folder / "report.md") in shown
    for item in summary.differences:
        assert item.sentence in " ".join(shown.split())


def test_json_of_the_summary_reads_back_as_it_was(written):
    _, _, folder, summary = written
    assert report.read(folder) == summary
    json.loads((folder / "report.json").read_text())


def test_comparison_csv_holds_the_numbers_of_the_summary(written):
    _, _, folder, summary = written
    table = pd.read_csv(folder / "comparison.csv")
    row = table[(table["line"] == "svd") & (table["rank"] == 4)].iloc[0]
    assert row["test_loss"] == line(summary, "svd", 4).numbers["test_loss"].mean
    assert row["difference"] == summary.differences[0].estimate.mean
    assert row["verdict"] == "supported"


def test_the_latex_table_has_as_many_cells_as_columns_and_no_bare_percent(written):
    lines = (written[2] / "comparison.tex").read_text().splitlines()
    columns = re.fullmatch(r"\\begin{tabular}{(\w+)}", lines[1])
    assert columns is not None
    rows = [row for row in lines if row.endswith(r"\\")]
    assert len(rows) == 1 + 8
    assert {row.count("&") for row in rows} == {len(columns[1]) - 1}
    assert not any(re.search(r"(?<!\\)%", row) for row in rows)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_the_latex_table_compiles(written, tmp_path):
    table = (written[2] / "comparison.tex").read_text()
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + table + "\\end{document}"
    (tmp_path / "a.tex").write_text(document)
    assert subprocess.run(["pdflatex", "-halt-on-error", "a.tex"], cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Number(mean=0.94123, n=7, low=0.92923, high=0.95323), "0.941 ± 0.012"),
        (Number(mean=0.94123, n=7, low=0.90123, high=0.98123), "0.94 ± 0.04"),
        (Number(mean=-0.2, n=7, low=-0.24, high=-0.18), "−0.20 [−0.24, −0.18]"),
        (Number(mean=37.4, n=5, low=7.4, high=67.4), "37 ± 30"),
        (Number(mean=2.98765, n=1), "2.99"),
        (Number(mean=2.98765, n=7, low=2.98765, high=2.98765), "2.99"),
        (None, "–"),
    ],
)
def test_no_digit_is_shown_that_the_interval_does_not_justify(value, shown):
    assert formatting.number(value) == shown


def test_a_second_write_leaves_no_trace_of_what_is_gone(tmp_path):
    _, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=2))
    folder = report.report_folder(plan, store)
    report.write(plan, store, folder)
    (folder / "runs" / "old").symlink_to("nowhere")
    (folder / "figures" / "spectrum.csv").write_text("old")
    shutil.rmtree(store.artefact(plan.of_stage("svd_export")[0].id))
    report.write(plan, store, folder)
    assert not (folder / "runs" / "old").is_symlink()
    assert not (folder / "figures" / "spectrum.csv").exists()


def test_results_csv_is_the_tidy_table(written):
    plan, store, folder, _ = written
    found = pd.read_csv(folder / "results.csv")
    assert list(found["run_id"]) == list(tidy(plan, store)["run_id"])


def test_a_nothing_done_report_says_so_without_failing(tmp_path):
    study, store = (
        rank_study(ranks=(4,), seeds=2, effect=By("student.init", random=0.1, otherwise=0.2)),
        Store(tmp_path),
    )
    plan = planned(study, store)
    summary = report.write(plan, store, report.report_folder(plan, store))
    assert summary.counts == {"pending": len(plan.runs)}
    assert only(summary).estimate is None
    assert "pending" in text(report.report_folder(plan, store), 80)
