"""`compare` on tables with known answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from orchestrator.__main__ import main
from tests.orchestrator.compare.tables import DIFFERENCES, USUAL, answer, curves, runs, said, write
from tests.test_borders import HEAVY, PLOTTING
from tests.test_borders import run as in_a_process


@pytest.mark.parametrize("name", ["runs.csv", "runs.jsonl"])
def test_a_table_with_a_known_answer(tmp_path, capsys, name):
    found = answer(capsys, write(tmp_path / name, runs()))
    (only,) = found["comparisons"]
    assert (only["arm"], only["n"], only["verdict"]) == ("svd", 6, "supported")
    assert only["mean_difference"] == pytest.approx(-0.2)
    assert only["interval"] == pytest.approx([-0.3, -0.1])
    assert only["p_exact"] == only["p_adjusted"] == 1 / 32
    d = np.array(DIFFERENCES)
    assert only["d_z"] == pytest.approx(stats.ttest_1samp(d, 0).statistic / np.sqrt(6))
    assert (
        only["p_exact"] == stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    )
    assert found["notes"] == []


def test_the_direction_of_the_metric_turns_the_verdict(tmp_path, capsys):
    found = answer(capsys, write(tmp_path / "a.csv", runs()), "--higher-is-better")
    assert found["comparisons"][0]["verdict"] == "contradicted"


def test_ranks_that_share_their_seeds_are_one_family_by_westfall_young(tmp_path, capsys):
    rows = [row for rank in (64, 4, 16) for row in runs(rank=rank)]
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--by", "rank")
    assert [item["group"]["rank"] for item in found["comparisons"]] == [4, 16, 64], "ranks by size, not as text"
    assert {item["p_adjusted"] for item in found["comparisons"]} == {1 / 32}
    assert found["family"] == {
        "size": 3,
        "method": "westfall-young",
        "reason": "the 3 comparisons share their 6 replicates",
    }


def test_ranks_with_seeds_of_their_own_are_adjusted_by_holm_and_need_more(tmp_path, capsys):
    rows = [*runs(rank=4), *runs(rank=16, start=11)]
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--by", "rank")
    assert found["family"]["method"] == "holm"
    assert {item["verdict"] for item in found["comparisons"]} == {"under-powered by design"}
    assert said(found, "6 values of seed: 7 are needed")
    seven = [*runs((*DIFFERENCES, -0.2), rank=4), *runs((*DIFFERENCES, -0.2), rank=16, start=11)]
    found = answer(capsys, write(tmp_path / "b.csv", seven), "--by", "rank")
    assert {item["verdict"] for item in found["comparisons"]} == {"supported"}
    assert {item["p_adjusted"] for item in found["comparisons"]} == {2 / 64}


@pytest.mark.parametrize(("n", "verdict"), [(5, "under-powered by design"), (6, "supported")])
def test_supported_is_impossible_below_six_pairs_and_possible_at_them(tmp_path, capsys, n, verdict):
    found = answer(capsys, write(tmp_path / "a.csv", runs(DIFFERENCES[:n])))
    assert found["comparisons"][0]["verdict"] == verdict


def test_several_arms_are_each_compared_with_the_baseline(tmp_path, capsys):
    third = [{**row, "init": "pissa", "eval_loss": row["eval_loss"] + 0.5} for row in runs() if row["init"] == "random"]
    found = answer(capsys, write(tmp_path / "a.csv", [*runs(), *third]))
    assert {item["arm"]: item["verdict"] for item in found["comparisons"]} == {
        "pissa": "contradicted",
        "svd": "supported",
    }


def test_a_margin_makes_a_near_tie_equivalent(tmp_path, capsys):
    near = write(tmp_path / "a.csv", runs((0.01, -0.01, 0.02, -0.02, 0.0, 0.01)))
    assert answer(capsys, near)["comparisons"][0]["verdict"] == "inconclusive"
    assert answer(capsys, near, "--margin", "0.1")["comparisons"][0]["verdict"] == "equivalent"
    assert answer(capsys, near, "--margin", "0.015")["comparisons"][0]["verdict"] == "inconclusive"


def test_with_several_teachers_n_counts_teachers_where_told_so_and_the_table_suggests_it(tmp_path, capsys):
    rows = [{**row, "teacher_seed": t} for t in (1, 2, 3) for row in runs()]
    table = write(tmp_path / "a.csv", rows)
    usual = [*USUAL[:4], "--pair", "seed,teacher_seed", *USUAL[6:]]
    plain = answer(capsys, table, usual=usual)
    assert plain["comparisons"][0]["n"] == 18
    assert said(plain, "--replicate teacher_seed averages them")
    nested = answer(capsys, table, "--replicate", "teacher_seed", usual=usual)
    assert (nested["comparisons"][0]["n"], nested["comparisons"][0]["pairs"]) == (3, 18)
    assert nested["comparisons"][0]["verdict"] == "under-powered by design"
    assert said(nested, "n counts the 3 values of teacher_seed")


def test_a_baseline_that_reads_no_teacher_is_paired_by_seed(tmp_path, capsys):
    rows = [{**row, "teacher_seed": t} for t in (1, 2) for row in runs() if row["init"] == "svd"]
    rows += [{**row, "teacher_seed": None} for row in runs() if row["init"] == "random"]
    usual = [*USUAL[:4], "--pair", "teacher_seed,seed", *USUAL[6:]]
    found = answer(capsys, write(tmp_path / "a.csv", rows), usual=usual)
    assert (found["comparisons"][0]["n"], found["comparisons"][0]["interval"]) == (6, pytest.approx([-0.3, -0.1]))


def test_declared_looks_share_alpha_and_wait(tmp_path, capsys):
    table = write(tmp_path / "a.csv", runs())
    found = answer(capsys, table, "--looks", "6,8,12")
    assert found["comparisons"][0]["verdict"] == "interim", "1/32 is above the level of a first look after six"
    assert found["looks"][0]["level"] < 1 / 32
    assert sum(look["level"] for look in found["looks"]) >= 0.05, "what six pairs cannot spend is passed on"
    eight = write(tmp_path / "b.csv", runs((*DIFFERENCES, -0.2, -0.2)))
    assert answer(capsys, eight, "--looks", "6,8,12")["comparisons"][0]["verdict"] == "supported"
    seven = write(tmp_path / "c.csv", runs((*DIFFERENCES, -0.2)))
    between = answer(capsys, seven, "--looks", "6,8,12")["comparisons"][0]
    assert (between["verdict"], between["p_exact"]) == ("interim", None)


def test_whether_the_difference_depends_on_the_rank_is_told_without_a_verdict(tmp_path, capsys):
    rows = [
        row for rank, more in ((4, 0.0), (8, -0.1), (16, -0.2)) for row in runs([d + more for d in DIFFERENCES], rank)
    ]
    table = write(tmp_path / "a.csv", rows)
    (found,) = answer(capsys, table, "--by", "rank")["dependences"]
    assert (found["arm"], found["values"], found["n"]) == ("svd", [4, 8, 16], 6)
    assert found["change_per_doubling"] == pytest.approx(-0.1)
    assert found["p"] == found["p_of_change"] == 1 / 32
    assert main(["compare", str(table), *USUAL, "--by", "rank"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Does svd − random depend on rank? In any way: p 0.031; per doubling −0.100" in text
    flat = [row for rank in (4, 8) for row in runs(rank=rank)]
    (none,) = answer(capsys, write(tmp_path / "b.csv", flat), "--by", "rank")["dependences"]
    assert none["p"] == 1.0
    named = [{**row, "rank": f"r{row['rank']}"} for row in flat]
    assert answer(capsys, write(tmp_path / "c.csv", named), "--by", "rank")["dependences"] == []


# -- curves -----------------------------------------------------------------------------------------------


def falling(hit, last=40, every=10):
    """Return a curve that is at 1.0 or below from step `hit` on."""
    return [(step, 0.9 if step >= hit else 2.0) for step in range(0, last + 1, every)]


def test_with_a_step_the_last_value_is_compared(tmp_path, capsys):
    rows = curves(
        {
            (i, s): [(0, 9.0), (10, 5.0), (20, 1 + (0.5 if i == "random" else 0) + s)]
            for i in ("svd", "random")
            for s in range(6)
        }
    )
    rows.reverse()
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--step", "step")
    assert found["comparisons"][0]["mean_difference"] == pytest.approx(-0.5)


def test_steps_to_target_are_first_hits_or_censored(tmp_path, capsys):
    values = {("svd", seed): falling(10 if seed < 5 else 0) for seed in range(6)}
    values |= {("random", seed): falling(30 if seed else 99) for seed in range(6)}
    found = answer(capsys, write(tmp_path / "a.csv", curves(values)), "--step", "step", "--target", "1.0")
    (only,) = found["comparisons"]
    assert only["verdict"] == "supported"
    # svd: five at 10, one at 0; random: one censored at 40, five at 30. Differences -30, -20 x 4, -30.
    assert only["mean_difference"] == pytest.approx(-140 / 6)
    steps = only["steps_to_target"]
    assert steps["horizon"] == 40
    assert (steps["arm"]["reached"], steps["baseline"]["reached"]) == (6, 5)
    assert (steps["arm"]["median"], steps["baseline"]["median"]) == (10, 30)
    assert steps["baseline"]["restricted_mean"] == pytest.approx((5 * 30 + 40) / 6)
    censored = [run for run in steps["baseline"]["runs"] if run["first_hit"] is None]
    assert [(run["pair"], run["censored_at"]) for run in censored] == [([0], 40)]
    assert {(run["after"], run["first_hit"]) for run in steps["arm"]["runs"]} == {(0, 10), (0, 0)}
    # Between evaluations: svd's hits may have been up to 10 steps earlier in five runs, random's in five.
    assert steps["mean_difference_bounds"] == pytest.approx([(-140 - 50) / 6, (-140 + 50) / 6])


def test_a_diverged_run_never_reaches_the_target_and_is_not_dropped(tmp_path, capsys):
    values = {("svd", seed): falling(10) for seed in range(6)}
    values |= {("random", seed): falling(30) for seed in range(5)}
    values[("random", 5)] = [(0, 2.0), (10, "nan")]
    found = answer(capsys, write(tmp_path / "a.csv", curves(values)), "--step", "step", "--target", "1.0")
    (only,) = found["comparisons"]
    assert only["n"] == 6
    assert only["steps_to_target"]["horizon"] == 40
    diverged = [run for run in only["steps_to_target"]["baseline"]["runs"] if run["is_diverged"]]
    assert [(run["first_hit"], run["censored_at"]) for run in diverged] == [(None, 40)]


def test_a_target_of_a_metric_that_rises_is_reached_from_below(tmp_path, capsys):
    values = {("svd", seed): [(0, 0.1), (10, 0.6), (20, 0.6)] for seed in range(6)}
    values |= {("random", seed): [(0, 0.1), (10, 0.2), (20, 0.2)] for seed in range(6)}
    table = write(tmp_path / "a.csv", curves(values))
    found = answer(capsys, table, "--step", "step", "--target", "0.5", "--higher-is-better")
    assert found["comparisons"][0]["verdict"] == "supported", "fewer steps are better whatever the metric's direction"
    assert found["higher_is_better"] is False


# -- for people -------------------------------------------------------------------------------------------


def test_the_table_fits_80_columns_and_says_everything(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    rows = [row for rank in (4, 16) for row in runs((*DIFFERENCES, -0.2), rank=rank)]
    write(tmp_path / "runs.csv", rows)
    assert main(["compare", "runs.csv", *USUAL, "--by", "rank", "--margin", "0.5"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for words in ("−0.20 [−0.25, −0.15]", "0.016", "Westfall-Young", "supported", "lower is better", "too small"):
        assert words in " ".join(text.split()), words


def test_it_loads_neither_pandas_nor_scipy_nor_anything_heavier_and_writes_nothing(tmp_path):
    table = write(tmp_path / "runs.csv", runs())
    code, modules = in_a_process(["compare", str(table), *USUAL, "--json"], tmp_path)
    assert code == 0
    assert modules & (HEAVY | PLOTTING) == set()
    assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]


# -- MLflow -----------------------------------------------------------------------------------------------


def test_an_mlflow_experiment_is_a_table_too(tmp_path, capsys, monkeypatch):
    from orchestrator.tracking import reading_client

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = reading_client(uri)
    experiment = client.create_experiment("study", artifact_location=str(tmp_path / "artefacts"))
    for row in runs():
        made = client.create_run(experiment, run_name=f"{row['init']} s{row['seed']}")
        client.log_param(made.info.run_id, "init", row["init"])
        client.log_param(made.info.run_id, "seed", row["seed"])
        for step, loss in ((0, 2.0), (10, row["eval_loss"])):
            client.log_metric(made.info.run_id, "eval_loss", loss, step=step)
        client.set_terminated(made.info.run_id)
    last = answer(capsys, f"{uri}#study")
    assert last["comparisons"][0]["interval"] == pytest.approx([-0.3, -0.1])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    hits = answer(capsys, "mlflow:study", "--step", "step", "--target", "1.2")
    assert hits["comparisons"][0]["steps_to_target"]["horizon"] == 10
    assert main(["compare", "mlflow:stduy", *USUAL]) == 2
    assert "Did you mean 'study'?" in capsys.readouterr().err


def test_json_has_no_infinities(tmp_path, capsys):
    found = answer(capsys, write(tmp_path / "a.csv", runs(DIFFERENCES[:1])))
    assert found["comparisons"][0]["interval"] is None
    assert json.dumps(found)


def test_a_baseline_without_a_teacher_still_counts_the_declared_replicates(tmp_path, capsys):
    """Folds are the replicates; the teacher's seed, which the baseline lacks, makes no pairs."""
    rows = [{**row, "fold": f, "teacher": 1 if row["init"] == "svd" else None} for f in range(6) for row in runs()]
    usual = [*USUAL[:4], "--pair", "fold,teacher,seed", *USUAL[6:]]
    table = write(tmp_path / "a.csv", rows)
    assert answer(capsys, table, usual=usual)["comparisons"][0]["n"] == 36
    nested = answer(capsys, table, "--replicate", "fold", usual=usual)["comparisons"][0]
    assert (nested["n"], nested["pairs"]) == (6, 36)


def test_between_looks_nothing_of_a_family_is_tested(tmp_path, capsys):
    rows = [row for rank in (4, 16) for row in runs((*DIFFERENCES, -0.2), rank=rank)]
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--by", "rank", "--looks", "6,8,12")
    assert {(item["verdict"], item["p_adjusted"]) for item in found["comparisons"]} == {("interim", None)}
    assert found["family"]["method"] == "westfall-young"


def test_of_our_own_results_neither_tuning_runs_nor_evaluations_are_compared(tmp_path, capsys):
    """A student's row has its held-out loss, its evaluation's has not; tuning runs share a seed over several rates."""
    students = [{**row, "stage": "student", "purpose": "verdict"} for row in runs()]
    evaluations = [{**row, "stage": "evaluate", "eval_loss": None} for row in students]
    tuning = [{**row, "purpose": "tuning", "seed": 101, "eval_loss": 9.0} for row in students[:3]]
    found = answer(capsys, write(tmp_path / "results.csv", [*evaluations, *tuning, *students]))
    (comparison,) = found["comparisons"]
    plain = answer(capsys, write(tmp_path / "plain.csv", runs()))
    assert comparison["n"] == len(DIFFERENCES)
    assert comparison["p_adjusted"] == plain["comparisons"][0]["p_adjusted"]
    assert "3 rows of tuning runs left out: no verdict uses them" in found["notes"]
    assert "rows of evaluate left out: eval_loss is measured by others" in found["notes"]


def test_a_status_in_a_last_row_without_the_metric_counts(tmp_path, capsys):
    curve = {("random", seed): [(0, 3.0), (20, 1 - 0.01 * seed)] for seed in range(6)}
    curve |= {("svd", seed): [(0, 3.0), (10, 0.5)] for seed in range(6)}
    rows = [{**row, "status": ""} for row in curves(curve)]
    rows += [{"init": "svd", "seed": seed, "step": 11, "status": "diverged"} for seed in range(6)]
    found = answer(capsys, write(tmp_path / "curves.csv", rows), "--step", "step")
    assert found["comparisons"][0]["n"] == 0
    assert any(note.startswith("svd: diverged at seed 0") for note in found["notes"])


def test_what_is_not_due_takes_no_part_in_the_equivalence_of_others(tmp_path, capsys):
    def within(last: float) -> list[float | None]:
        near = [0.001 * (-1) ** seed for seed in range(8)]
        rows = [*runs(near, rank=4), *runs([*near[:6], last], rank=16)]
        rows += [{"init": init, "rank": 16, "seed": 8, "status": "running"} for init in ("random", "svd")]
        found = answer(capsys, write(tmp_path / "runs.csv", rows), "--by", "rank", "--margin", "0.01")
        return [one["p_equivalent"] for one in found["comparisons"]]

    assert within(0.0) == within(5.0)
    assert within(0.0)[1] is None
