"""What is wrong with a table is said in words: a note where it can still be judged, one line where it cannot."""

from __future__ import annotations

import pytest

from tests.orchestrator.compare.tables import DIFFERENCES, USUAL, answer, curves, refusal, runs, said, write


def test_duplicate_seeds_are_averaged_and_counted_once(tmp_path, capsys):
    again = [{**row, "eval_loss": row["eval_loss"] + 0.02} for row in runs()[:2]]
    found = answer(capsys, write(tmp_path / "a.csv", [*runs(), *again]))
    assert said(found, "repeats of one pair averaged, and counted once: 2 (first: random seed 1)")
    assert found["comparisons"][0]["n"] == 6
    assert found["comparisons"][0]["interval"] == pytest.approx([-0.3, -0.1])


def test_missing_cells_are_left_out_and_named(tmp_path, capsys):
    rows = [row for row in runs() if (row["init"], row["seed"]) != ("svd", 3)]
    found = answer(capsys, write(tmp_path / "a.csv", rows))
    assert said(found, "random: svd has no run with seed 3; left out")
    assert found["comparisons"][0]["n"] == 5
    assert found["comparisons"][0]["verdict"] == "inconclusive", "six were meant; five cannot decide"
    assert "1 is missing" in found["comparisons"][0]["sentence"]


def test_an_empty_metric_cell_is_missing_and_not_zero(tmp_path, capsys):
    rows = runs()
    rows[3]["eval_loss"] = None
    found = answer(capsys, write(tmp_path / "a.csv", rows))
    assert said(found, "svd: missing at seed 2")
    assert found["comparisons"][0]["n"] == 5


def test_a_rank_that_lost_a_pair_makes_the_family_holms(tmp_path, capsys):
    rows = [row for rank in (4, 16) for row in runs((*DIFFERENCES, -0.2, -0.2), rank=rank)]
    rows = [row for row in rows if (row["rank"], row["init"], row["seed"]) != (16, "svd", 3)]
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--by", "rank")
    assert found["family"]["reason"] == "1 of 2 comparisons lack replicates that others have"
    assert {item["verdict"] for item in found["comparisons"]} == {"supported"}


def test_a_table_of_one_seed_is_under_powered_and_says_how_many_are_needed(tmp_path, capsys):
    found = answer(capsys, write(tmp_path / "a.csv", runs(DIFFERENCES[:1])))
    (only,) = found["comparisons"]
    assert (only["n"], only["verdict"], only["p_exact"], only["d_z"]) == (1, "under-powered by design", 1.0, None)
    assert said(found, "no test of one pair gives p below 1")
    assert said(found, "1 value of seed: 6 are needed")


def test_a_constant_metric_cannot_tell_arms_apart(tmp_path, capsys):
    found = answer(capsys, write(tmp_path / "a.csv", [{**row, "eval_loss": 0.5} for row in runs()]))
    assert said(found, "eval_loss is 0.5 in every row")
    (only,) = found["comparisons"]
    assert (only["p_exact"], only["d_z"], only["verdict"]) == (1.0, None, "inconclusive")


def test_a_constant_split_is_said_to_split_nothing(tmp_path, capsys):
    found = answer(capsys, write(tmp_path / "a.csv", runs(rank=4)), "--by", "rank")
    assert said(found, "--by rank: it has one value")
    assert found["comparisons"][0]["verdict"] == "supported"


def test_an_arm_column_with_one_value_leaves_nothing_to_compare(tmp_path, capsys):
    rows = [row for row in runs() if row["init"] == "random"]
    assert "there is nothing to compare it with" in refusal(capsys, write(tmp_path / "a.csv", rows))


@pytest.mark.parametrize("value", ["nan", "inf", "NaN"])
def test_a_diverged_run_is_named_and_not_averaged_away(tmp_path, capsys, value):
    rows = runs((*DIFFERENCES, -0.2))
    rows[5]["eval_loss"] = value
    found = answer(capsys, write(tmp_path / "a.csv", rows))
    assert said(found, "svd: diverged at seed 3; pairs left out, which favours an arm whose runs end badly")
    assert found["comparisons"][0]["n"] == 6


def test_a_repeat_that_diverged_takes_its_pair_along(tmp_path, capsys):
    rows = [*runs((*DIFFERENCES, -0.2)), {"init": "svd", "seed": 3, "eval_loss": "nan"}]
    found = answer(capsys, write(tmp_path / "a.csv", rows))
    assert found["comparisons"][0]["n"] == 6
    assert said(found, "svd: diverged at seed 3")


def test_a_failed_run_with_a_value_does_not_count_and_a_running_one_makes_it_interim(tmp_path, capsys):
    rows = [{**row, "status": "done"} for row in runs((*DIFFERENCES, -0.2))]
    rows[1]["status"] = "failed"
    found = answer(capsys, write(tmp_path / "a.csv", rows))
    assert said(found, "svd: failed at seed 1")
    assert found["comparisons"][0]["n"] == 6
    rows[1]["status"] = "running"
    only = answer(capsys, write(tmp_path / "b.csv", rows))["comparisons"][0]
    assert (only["verdict"], only["p_exact"]) == ("interim", None)


def test_rows_of_other_stages_are_left_out_and_counted(tmp_path, capsys):
    rows = [*runs(), {"init": None, "seed": None, "eval_loss": 3.0}]
    assert said(answer(capsys, write(tmp_path / "a.csv", rows)), "1 row left out: init, seed not all given")


# -- curves -----------------------------------------------------------------------------------------------


def both(curve_of):
    return curves({(init, seed): curve_of(init, seed) for init in ("random", "svd") for seed in range(6)})


def test_a_curve_without_step_is_refused_rather_than_averaged(tmp_path, capsys):
    table = write(tmp_path / "a.csv", both(lambda init, seed: [(0, 2.0), (10, 1.0)]))
    assert "--step step" in refusal(capsys, table)


def test_a_curve_that_leaves_the_target_again_counts_with_its_first_hit(tmp_path, capsys):
    rows = both(lambda init, seed: [(0, 2.0), (10, 0.9), (20, 1.5), (30, 0.8)])
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--step", "step", "--target", "1")
    assert said(found, "curves left the target again after reaching it; the first hit counts: 12")
    assert found["comparisons"][0]["steps_to_target"]["arm"]["median"] == 10


def test_a_last_step_logged_twice_is_counted_once(tmp_path, capsys):
    rows = both(lambda init, seed: [(0, 2.0), (10, 1.0 + (init == "random")), (10, 1.0 + (init == "random"))])
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--step", "step")
    assert said(found, "steps logged twice with one value, counted once: 12 (first: random seed 0 step 10)")
    assert found["comparisons"][0]["mean_difference"] == -1.0


def test_a_step_logged_twice_with_two_values_takes_the_later_row(tmp_path, capsys):
    rows = both(lambda init, seed: [(0, 2.0), (10, 7.0), (10, 1.0 + (init == "random"))])
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--step", "step")
    assert said(found, "the later row taken")
    assert found["comparisons"][0]["mean_difference"] == -1.0


def test_a_seed_run_twice_is_two_curves_whatever_the_order_of_rows(tmp_path, capsys):
    one = both(lambda init, seed: [(0, 2.0), (10, 1.0 + (init == "random"))])
    two = both(lambda init, seed: [(0, 2.0), (10, 1.2 + (init == "random"))])
    together = [row for pair in zip(one, two, strict=True) for row in pair]
    for number, rows in enumerate(([*one, *two], together)):
        found = answer(capsys, write(tmp_path / f"{number}.csv", rows), "--step", "step")
        assert said(found, "repeats of one pair averaged")
        assert found["comparisons"][0]["n"] == 6
        assert found["comparisons"][0]["mean_difference"] == pytest.approx(-1.0)


def test_runs_of_different_lengths_are_said(tmp_path, capsys):
    rows = both(lambda init, seed: [(0, 2.0), (10 if init == "svd" else 20, 1.0 + (init == "random"))])
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--step", "step")
    assert said(found, "runs end at different steps, 10 to 20")


def test_a_curve_that_ends_in_nan_has_diverged(tmp_path, capsys):
    rows = both(lambda init, seed: [(0, 2.0), (10, "nan" if (init, seed) == ("svd", 2) else 1.0)])
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--step", "step")
    assert said(found, "svd: diverged at seed 2")


# -- one line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metric", "evalloss"), "--metric evalloss: TABLE has no such column. Did you mean 'eval_loss'?"),
        (("--pair", "sed"), "--pair sed: TABLE has no such column. Did you mean 'seed'?"),
        (("--by", "rnak"), "--by rnak: TABLE has no such column. Columns: eval_loss, init, seed."),
        (("--baseline", "randm"), "has init = randm. Did you mean 'random'? Arms: random, svd."),
        (("--target", "1"), "name the column of the training step with --step COLUMN"),
        (("--margin", "0"), "--margin 0: give the smallest difference that matters, above 0"),
        (("--alpha", "5"), "--alpha 5: give a share between 0 and 1"),
        (("--looks", "8,6"), "--looks 8,6: give increasing numbers"),
        (("--looks", "4,5"), "the last look is the largest number that was declared"),
        (("--replicate", "teacher"), "--replicate teacher: it is not among --pair seed"),
        (("--by", "seed"), "--by seed: the column is already given as --pair"),
        (("--metric", "init"), "--metric init: the column is already given as --arm"),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(tmp_path, capsys, options, words):
    table = write(tmp_path / "runs.csv", runs())
    assert words.replace("TABLE", str(table)) in refusal(capsys, table, *options)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "init,seed,eval_loss\nsvd,1,fast\nrandom,1,2\n", "line 2: eval_loss is 'fast', and not a number"),
        ("a.csv", "init,seed,eval_loss\n", "no rows"),
        ("a.csv", "init,seed,seed,eval_loss\nsvd,1,1,2\n", "two columns are named 'seed'"),
        ("a.csv", "init,seed,eval_loss\nsvd,1,2,3\n", "line 2: 4 cells under 3 titles"),
        ("a.jsonl", '{"init": "svd"}\n{"init"\n', "line 2: not JSON"),
        ("a.jsonl", "[1, 2]\n", "'[1, 2]' is no object"),
        ("a.json", "3", "item"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(tmp_path, capsys, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    message = refusal(capsys, path)
    assert words in message or (words == "item" and "holds one int" in message)


def test_a_table_that_is_not_there(tmp_path, capsys, monkeypatch):
    assert "no such file; give a .csv" in refusal(capsys, tmp_path / "none.csv")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "no MLflow database" in refusal(capsys, "mlflow:study")
    assert list(tmp_path.iterdir()) == [], "looking creates nothing"


def test_a_step_that_is_no_number_names_its_line(tmp_path, capsys):
    rows = curves({("svd", 1): [("first", 1.0)], ("random", 1): [(0, 1.0)]})
    assert "line 2: step is 'first', and not a number" in refusal(
        capsys, write(tmp_path / "a.csv", rows), "--step", "step"
    )


def test_seeds_written_as_floats_are_the_same_seeds(tmp_path, capsys):
    rows = [{**row, "seed": f"{row['seed']}.0" if row["init"] == "svd" else row["seed"]} for row in runs()]
    assert answer(capsys, write(tmp_path / "a.csv", rows))["comparisons"][0]["n"] == 6


@pytest.mark.parametrize("separator", ["\t", ";"])
def test_tabs_and_semicolons_separate_too_and_quotes_hold(tmp_path, capsys, separator):
    table = write(tmp_path / "a.csv", runs())
    table.write_text(table.read_text().replace(",", separator).replace("svd", '"svd"'))
    assert answer(capsys, table, usual=USUAL)["comparisons"][0]["n"] == 6


def test_a_margin_that_no_data_of_this_size_could_meet_is_said(tmp_path, capsys):
    rows = [row for rank in (4, 16) for row in runs((0.0, 0.01, -0.01, 0.0, 0.01, -0.01), rank=rank)]
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--by", "rank", "--margin", "1")
    assert {item["verdict"] for item in found["comparisons"]} == {"inconclusive"}
    assert said(found, "7 values of seed are needed before any data could show one of 2 to be equivalent")


def test_rows_are_chosen_by_where(tmp_path, capsys):
    rows = [{**row, "stage": stage} for stage in ("student", "evaluate") for row in runs()]
    rows = [{**row, "eval_loss": 7.0} if row["stage"] == "evaluate" else row for row in rows]
    table = write(tmp_path / "a.csv", rows)
    (only,) = answer(capsys, table, "--where", "stage=student")["comparisons"]
    assert only["interval"] == pytest.approx([-0.3, -0.1])
    assert said(answer(capsys, table), "repeats of one pair averaged")
    assert "Did you mean 'student'?" in refusal(capsys, table, "--where", "stage=studnt")
    assert "--where stge: " in refusal(capsys, table, "--where", "stge=student")


def test_steps_without_an_evaluation_are_passed_over(tmp_path, capsys):
    """Trainers log the training loss and the evaluation of one step as two rows."""
    rows = both(lambda init, seed: [(0, 2.0), (0, None), (5, None), (10, 1.0 + (init == "random")), (10, None)])
    table = write(tmp_path / "a.csv", [*rows, {"init": "svd", "seed": 0, "eval_loss": 9.0}])
    found = answer(capsys, table, "--step", "step")
    assert found["notes"] == ["1 row left out: init, step, seed not all given"]
    assert found["comparisons"][0]["mean_difference"] == -1.0


def test_an_arm_that_was_not_run_at_a_rank_is_no_comparison_there(tmp_path, capsys):
    third = [{**row, "init": "pissa"} for row in runs(rank=4) if row["init"] == "svd"]
    found = answer(capsys, write(tmp_path / "a.csv", [*runs(rank=4), *runs(rank=16), *third]), "--by", "rank")
    assert found["family"]["size"] == 3
    assert said(found, "pissa rank 16: no such runs")


def test_a_comparison_that_waits_counts_with_p_1_and_leaves_the_others_tested(tmp_path, capsys):
    rows = [{**row, "status": "done"} for rank in (4, 16) for row in runs((*DIFFERENCES, -0.2), rank=rank)]
    rows[-1]["status"] = "running"
    found = answer(capsys, write(tmp_path / "a.csv", rows), "--by", "rank")
    assert [(item["verdict"], item["p_adjusted"]) for item in found["comparisons"]] == [
        ("supported", 2 / 64),
        ("interim", None),
    ]


def test_one_teacher_is_no_sample_of_teachers_and_the_sentence_says_so(tmp_path, capsys):
    usual = [*USUAL[:4], "--pair", "teacher,seed", *USUAL[6:]]
    rows = [{**row, "teacher": 7} for row in runs()]
    found = answer(capsys, write(tmp_path / "a.csv", rows), usual=usual)
    sentence = found["comparisons"][0]["sentence"]
    assert "for other values of seed and for teacher 7 alone, all else as in" in sentence
    assert not said(found, "--replicate")
    single = answer(capsys, write(tmp_path / "b.csv", runs(DIFFERENCES[:1])))["comparisons"][0]["sentence"]
    assert "by design for seed 1 alone, all else as in" in single


@pytest.mark.parametrize("more", [(), ("--step", "step", "--target", "1")])
def test_arms_that_share_no_seed_have_no_pair_and_both_sides_are_named(tmp_path, capsys, more):
    rows = [{"init": "svd", "seed": seed, "step": 0, "eval_loss": 1.0} for seed in (1, 2)]
    rows += [{"init": "random", "seed": seed, "step": 0, "eval_loss": 2.0} for seed in (3, 4)]
    found = answer(capsys, write(tmp_path / "a.csv", rows), *more)
    (only,) = found["comparisons"]
    assert (only["n"], only["mean_difference"], only["p_exact"]) == (0, None, None)
    assert said(found, "svd: random has no run with seed 1, seed 2; left out")
    assert said(found, "random: svd has no run with seed 3, seed 4; left out")
