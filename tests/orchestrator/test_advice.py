from __future__ import annotations

from dataclasses import replace

from orchestrator.__main__ import main
from orchestrator.advice import Advice, advise, demonstration
from orchestrator.changes import Changes
from orchestrator.replication import design_of
from orchestrator.store import Store
from orchestrator.studies import load
from orchestrator.study import By, Study
from tests.orchestrator.synthetic import planned, rank_study


def advice(study: Study, folder, topic: str) -> list[Advice]:
    return [item for item in advise(planned(study, Store(folder))) if item.topic == topic]


def only(found: list[Advice]) -> Advice:
    assert len(found) == 1
    return found[0]


def with_comparison(study: Study, **changes) -> Study:
    assert study.comparison is not None
    return replace(study, comparison=replace(study.comparison, **changes))


def test_six_replicates_suffice_for_any_number_of_ranks_that_share_them(tmp_path):
    found = only(advice(rank_study(ranks=(2, 4, 8, 16, 32), seeds=6), tmp_path, "design"))
    assert found.is_ok
    assert "smallest adjusted p 0.031 by Westfall-Young" in found.text
    assert demonstration(planned(rank_study(seeds=6), Store(tmp_path))) == ""


def test_a_demonstration_names_the_option_that_makes_it_a_design_that_can_conclude(tmp_path):
    study = rank_study(seeds=3)
    line = demonstration(planned(study, Store(tmp_path)))
    assert line.startswith("demonstration: 3 replicates (student), 3 comparisons: smallest adjusted p 0.250")
    option = line.rpartition("--axis student.seed=")[2]
    larger = study.with_axis("student.seed", tuple(map(int, option.split(","))))
    assert demonstration(planned(larger, Store(tmp_path))) == "", "the option does what it says"


def test_a_demonstration_of_several_splits_asks_for_splits(tmp_path):
    study = rank_study(ranks=(4,), seeds=3).with_axis("dataset.fold", (0, 1))
    assert demonstration(planned(study, Store(tmp_path))).endswith(
        "--set dataset.folds=6 --axis dataset.fold=0,1,2,3,4,5"
    )


def test_looks_are_told_with_their_levels_and_a_number_between_them_is_not_ok(tmp_path):
    looking = with_comparison(rank_study(ranks=(4,), seeds=8), looks=(8, 12))
    assert only(advice(looking, tmp_path, "looks")).is_ok
    between = only(advice(looking.with_axis("student.seed", tuple(range(1, 10))), tmp_path, "looks"))
    assert not between.is_ok
    assert between.text.endswith("--axis student.seed=1,2,3,4,5,6,7,8,9,10,11,12")


def test_a_margin_that_no_data_could_meet_is_noted(tmp_path):
    near = only(advice(with_comparison(rank_study(seeds=6), margin=0.05), tmp_path, "margin"))
    assert not near.is_ok
    assert "needs 7 replicates" in near.text
    assert only(advice(with_comparison(rank_study(seeds=7), margin=0.05), tmp_path, "margin")).is_ok


def test_one_rate_for_all_arms_is_noted_and_a_rate_of_its_own_is_not(tmp_path):
    assert only(advice(rank_study(), tmp_path, "learning rate")).is_ok
    shared = only(advice(rank_study(learning_rate=1e-3), tmp_path, "learning rate"))
    assert not shared.is_ok
    assert "favours the arm that it suits" in shared.text


def test_a_fixed_alpha_over_ranks_is_noted_and_alpha_as_the_rank_is_not(tmp_path):
    assert only(advice(rank_study(), tmp_path, "alpha")).is_ok
    assert not only(advice(rank_study(lora_alpha=16.0), tmp_path, "alpha")).is_ok


def test_arms_that_differ_in_more_than_their_name_are_noted(tmp_path):
    study = rank_study().with_setting("student", "steps", By("student.init", random=40, otherwise=20))
    found = only(advice(study, tmp_path, "pairing"))
    assert not found.is_ok
    assert "steps random 40, svd 20" in found.text


def test_teachers_that_random_does_not_read_are_noted_with_the_way_out(tmp_path):
    found = only(advice(rank_study(ranks=(4,)).with_axis("teacher.seed", (1, 2)), tmp_path, "pairing"))
    assert not found.is_ok
    assert "random read no teacher" in found.text
    assert 'Axis("student.seed")' in found.text


def test_judging_the_best_step_is_early_stopping_by_another_name(tmp_path):
    assert only(advice(rank_study(), tmp_path, "early stopping")).is_ok
    assert not only(advice(with_comparison(rank_study(), metric="best_eval_loss"), tmp_path, "early stopping")).is_ok


def test_few_records_are_sent_to_folds_and_folds_left_out_are_named(tmp_path):
    data = tmp_path / "few.jsonl"
    data.write_text("".join(f'{{"prompt": "p {i}", "completion": "c {i}"}}\n' for i in range(81)))
    few = load("smoke", Changes(settings=(f"dataset.source={data}",)))
    found = only(advice(few, tmp_path, "data"))
    assert "81 records leave 8 to test on" in found.text
    some = load("smoke", Changes(settings=(f"dataset.source={data}", "dataset.folds=5"), axes=("dataset.fold=0,1,2",)))
    assert not only(advice(some, tmp_path, "folds")).is_ok
    every = replace(some, axes={**some.axes, "dataset.fold": (0, 1, 2, 3, 4)})
    assert only(advice(every, tmp_path, "folds")).is_ok
    design = design_of(planned(every, Store(tmp_path)))
    assert design is not None
    assert design.counted == ("split",)


def test_a_sweep_says_first_that_it_is_a_demonstration(tmp_path, capsys):
    command = ["sweep", "rank_study", "--scale", "tiny", "--store", str(tmp_path / "s"), "--redo", "no such run"]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("demonstration: 3 replicates")
    assert main([*command, "--axis", "student.seed=1,2,3,4,5,6"]) == 2
    assert "demonstration" not in capsys.readouterr().err


def test_a_plan_that_ends_before_the_students_is_no_demonstration(tmp_path):
    plan = planned(rank_study(seeds=2), Store(tmp_path)).until("teacher")
    assert demonstration(plan) == ""
    assert not [item for item in advise(plan) if item.topic == "design"]


def test_a_baseline_that_is_no_arm_is_said_before_anything_trains_and_by_the_sweep(tmp_path):
    mistyped = with_comparison(rank_study(), baseline="randm")
    found = only(advice(mistyped, tmp_path, "baseline"))
    assert not found.is_ok
    assert "no arm is the baseline 'randm'" in found.text
    assert "Did you mean 'random'?" in found.text
    assert demonstration(planned(mistyped, Store(tmp_path))) == found.text
    alone = rank_study().with_axis("student.init", ("svd",))
    assert "student.init has svd" in only(advice(alone, tmp_path, "baseline")).text
    assert not advice(alone, tmp_path, "design")
    assert not advice(rank_study(), tmp_path, "baseline")
