"""A design run again and again where the answer is known: what differs between arms, and what is counted."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from orchestrator.__main__ import main
from orchestrator.changes import Changes
from orchestrator.design import share_alpha
from orchestrator.errors import UserError
from orchestrator.plan import Plan
from orchestrator.rehearsal import REPETITION, first, longer_by, parts, rehearse
from orchestrator.replication import design_of
from orchestrator.report import rehearsal as report
from orchestrator.store import Store
from orchestrator.studies import load
from orchestrator.study import By, Comparison, Rehearsal, Selected, Stage, Study, repeats
from tests.orchestrator.synthetic import execute, fill, planned, rank_study

NULL, PLANTED = Rehearsal(3), Rehearsal(3, (0.5, 1.0))


def rehearsed(rehearsal: Rehearsal, study: Study | None = None, **comparison) -> Study:
    study = study or rank_study(ranks=(4, 8), seeds=6)
    study = replace(study, comparison=Comparison(target_margin=0.05, **comparison))
    return rehearse(study.with_axis(REPETITION, repeats(rehearsal.repetitions)), rehearsal)


def students(plan: Plan) -> dict[tuple, dict]:
    """Return the students' configs by repetition, rank, arm and seed of the design."""
    axes = (REPETITION, "student.rank", "student.init", "student.seed")
    return {tuple(run.labels[axis] for axis in axes): run.config.model_dump() for run in plan.of_stage("student")}


def test_arms_of_a_rehearsal_without_effect_are_the_baseline_under_seeds_of_their_own(tmp_path):
    plan = planned(rehearsed(NULL), Store(tmp_path))
    configs = students(plan)
    assert len(configs) == 3 * 2 * 2 * 6
    for (repetition, rank, _, seed), config in configs.items():
        baseline = configs[repetition, rank, "random", seed]
        assert config["init"] == "random"
        assert config | {"seed": 0} == baseline | {"seed": 0}
    by_luck = defaultdict(set)
    for (repetition, _, arm, seed), config in configs.items():
        by_luck[repetition, arm, seed].add(config["seed"])
    assert all(len(seeds) == 1 for seeds in by_luck.values()), "ranks share their seeds, as in the study"
    assert len(set().union(*by_luck.values())) == 3 * 2 * 6, "nothing else does"
    reads = {tuple(run.inputs.items()) for run in plan.of_stage("student")}
    assert len(reads) == 1, "no arm reads what the baseline does not"


def test_each_part_is_the_design_itself(tmp_path):
    plan, alone = planned(rehearsed(NULL), Store(tmp_path)), planned(rank_study(ranks=(4, 8), seeds=6), Store(tmp_path))
    wanted = design_of(alone)
    for part in parts(plan):
        assert design_of(part) == replace(wanted, comparison=part.study.comparison)
        assert part.study.axes == alone.study.axes
        assert len(part.of_stage("student")) == len(alone.of_stage("student"))
    several = [{run.id for run in part.of_stage("student")} for part in parts(plan)]
    assert not any(one & other for one, other in itertools.combinations(several, 2))
    assert len(plan.of_stage("teacher")) == 1
    assert parts(alone) == [alone] == [first(alone)]


def test_every_repetition_selects_its_own_rate_from_the_baselines_grid(tmp_path):
    study = rank_study(ranks=(4,), seeds=6)
    grid = By("student.init", random=(1e-3, 3.2e-3, 1e-2), svd=(1e-5, 3.2e-5, 1e-4))
    plan = planned(rehearsed(NULL, study.with_setting("student", "learning_rate", Selected(grid))), Store(tmp_path))
    assert len(plan.selections) == 3 * 2
    assert {tuple(tried.value for tried in item.tried) for item in plan.selections} == {(1e-3, 3.2e-3, 1e-2)}
    runs = [run for item in plan.selections for run in item.runs]
    assert len(set(runs)) == len(runs) == 3 * 2 * 3
    assert [len(part.selections) for part in parts(plan)] == [2, 2, 2]
    assert all(REPETITION not in item.labels for part in parts(plan) for item in part.selections)


def test_what_is_planted_is_longer_training_of_all_arms_but_the_baseline(tmp_path):
    study = rehearsed(PLANTED, rank_study(ranks=(4, 8), seeds=1, inits=("random", "svd", "pissa")))
    configs = students(planned(study, Store(tmp_path)))
    steps = {(arm, rank): config["steps"] for (_, rank, arm, _), config in configs.items()}
    assert steps == {
        ("random", 4): 20,
        ("random", 8): 20,
        ("svd", 4): 30,
        ("svd", 8): 40,
        ("pissa", 4): 40,
        ("pissa", 8): 30,
    }
    assert longer_by(study, "svd", 8) == 1.0
    assert longer_by(study, "random", 8) == 0.0


def test_arms_of_an_axis_of_their_own_read_what_the_baseline_reads(tmp_path):
    study = rank_study(ranks=(4,), seeds=2)
    arms = {"init": By("arm", plain="random", other="svd"), "batch_size": By("arm", plain=8, other=16)}
    free = replace(
        study,
        stages={**study.stages, "student": replace(study.stages["student"], config={**arms, "learning_rate": 1e-3})},
        axes={"arm": ("plain", "other"), "student.rank": (4,), "student.seed": (1, 2)},
    )
    compared = rehearsed(NULL, free, arm="arm", baseline="plain")
    plan = planned(compared, Store(tmp_path))
    assert {(run.config.init, run.config.batch_size) for run in plan.of_stage("student")} == {("random", 8)}
    assert len({run.config.seed for run in plan.of_stage("student")}) == 3 * 2 * 2
    assert design_of(first(plan)).family == 1
    assert design_of(first(plan)).have == 2


def test_a_study_that_cannot_be_rehearsed_says_so():
    no_arms = Study("alone", "One.", {"student": Stage("student")}, {"student.seed": (1, 2)})
    with pytest.raises(UserError, match="alone compares no arms: there is nothing to rehearse"):
        rehearsed(NULL, replace(no_arms))
    with pytest.raises(UserError, match=r"compares with random, which is no value of student.init"):
        rehearsed(NULL, rank_study(inits=("svd", "pissa")))
    varied = rank_study().with_axis("student.steps", (5, 10))
    with pytest.raises(UserError, match=r"student.steps is no single number.*--scale null"):
        rehearsed(PLANTED, varied)


def test_the_number_of_repetitions_is_an_axis_of_the_command_line():
    study = load("rank_study", Changes(scale="null", axes=("repetition=1,2,3,4",)))
    assert study.axes[REPETITION] == (1, 2, 3, 4)
    assert study.name == "rank_study-null"
    assert len(study.axes["student.seed"]) == len(load("rank_study").axes["student.seed"])
    assert len(study.axes["student.rank"]) == len(load("rank_study").axes["student.rank"])
    with pytest.raises(UserError, match="no stage named 'repetition'"):
        load("rank_study", Changes(axes=("repetition=1,2",)))


# -- what is counted --------------------------------------------------------------------------------------


def by_hand(plan: Plan, store: Store, rank: int) -> dict[int, np.ndarray]:
    """Return the differences svd - random in test loss by repetition, read from the records."""
    losses = {}
    for run in plan.of_stage("evaluate"):
        if "student.seed" in run.labels:
            where = (run.labels[REPETITION], run.labels["student.rank"])
            key = (*where, run.labels["student.init"], run.labels["student.seed"])
            losses[key] = store.record(run.id).metrics["test_loss"]
    return {
        number: np.array([losses[number, rank, "svd", s] - losses[number, rank, "random", s] for s in range(1, 7)])
        for number in plan.study.axes[REPETITION]
    }


def exact_p(differences: np.ndarray) -> float:
    """Return the p of the paired permutation test, by scipy."""
    data = (differences, np.zeros(len(differences)))
    options = {"permutation_type": "samples", "n_resamples": np.inf}
    return stats.permutation_test(data, lambda a, b: np.mean(a - b), **options).pvalue


def test_wrong_verdicts_are_counted_as_a_test_by_hand_counts_them(tmp_path):
    """At an alpha of .5, so that there is something to count; with one look at the end, and with two."""
    store, count = Store(tmp_path), 6
    at_end = rehearsed(Rehearsal(count), rank_study(ranks=(4,), seeds=6), alpha=0.5)
    plan = planned(at_end, store)
    fill(plan, store)
    values = by_hand(plan, store, 4).values()
    early, late = share_alpha((5, 6), 0.5, method="none")
    claims = [exact_p(some) <= 0.5 for some in values]
    sequential = [exact_p(some[:5]) <= early.level or exact_p(some) <= late.level for some in values]
    assert 0 < sum(claims) < count
    assert claims != sequential
    for study, wrong in ((at_end, sum(claims)), (looking(at_end, (5, 6)), sum(sequential))):
        section = report.section(replace(plan, study=study), store)
        assert section.paragraphs[1].startswith(f"Wrong verdicts: in {wrong} of {count} repetitions")
        (row,) = section.grids[0].rows
        assert row[1] == "nothing"
        assert int(row[4].split()[0]) + int(row[5].split()[0]) == wrong


def looking(study: Study, sizes: tuple[int, ...]) -> Study:
    return replace(study, comparison=replace(study.comparison, looks=sizes))


def test_a_planted_effect_is_detected_and_its_size_told(tmp_path):
    store = Store(tmp_path)
    study = rehearsed(PLANTED, rank_study(ranks=(4, 8), seeds=6, per_step=0.02))
    plan = planned(study, store)
    fill(plan, store)
    found = list(report.repetitions(plan, store))
    assert [[case.verdict for case in cases] for cases in found] == [["supported"] * 2] * 3
    section = report.section(plan, store)
    assert "in 0 of 3 repetitions (0 %, 95 % Clopper-Pearson 0 to 71 %)" in section.paragraphs[1]
    assert "all of them in 3 of 3 repetitions (100 %, 95 % Clopper-Pearson 29 to 100 %)" in section.paragraphs[2]
    told = " ".join(section.paragraphs)
    for rank, steps in ((4, 10), (8, 20)):
        mean = np.mean([values.mean() for values in by_hand(plan, store, rank).values()])
        assert mean == pytest.approx(-0.02 * steps, abs=0.04)
        counted = next(row for row in section.grids[0].rows if row[0].startswith(f"Rank {rank}"))
        assert float(counted[2].split()[0].replace("−", "-")) == pytest.approx(mean, abs=0.006)
        assert f"{5 * steps} % more steps" in told


def test_a_repetition_that_has_not_ended_is_not_counted(tmp_path):
    store = Store(tmp_path)
    plan = planned(rehearsed(NULL, rank_study(ranks=(4,), seeds=2)), store)
    assert report.section(plan, store) is None
    for part in parts(plan)[:2]:
        fill(part, store)
    section = report.section(plan, store)
    assert section.paragraphs[0].startswith("2 of 3 repetitions, the others not ended, of the whole design")


# -- for real ---------------------------------------------------------------------------------------------


SMALL = Changes(
    settings=("teacher.steps=2", "dataset.items=100", "student.learning_rate=0.03"),
    axes=("student.rank=2", "student.seed=1", "repetition=1,2"),
    scale="planted",
)


def test_the_tiny_model_trains_the_planted_arm_longer_and_it_ends_lower(tmp_path):
    store = Store(tmp_path)
    plan = planned(load("smoke", SMALL), store)
    assert {execute(run, store).status for run in plan.runs} == {"done"}
    trained = [store.record(run.id) for run in plan.of_stage("student")]
    assert sorted(record.metrics["steps"] for record in trained) == [12] * 2 + [18] * 2
    assert len({record.config["seed"] for record in trained}) == 4
    ((case,), _) = report.repetitions(plan, store)
    assert case.verdict == "under-powered by design"
    (row,) = report.section(plan, store).grids[0].rows
    assert row[:2] == ["Rank 2, svd", "50 % more steps"]
    assert row[2].startswith("−"), "trained longer, the arm ends lower"


@pytest.mark.slow
def test_a_sweep_at_the_null_scale_ends_in_a_report_of_its_design_and_what_it_says_of_it(tmp_path, capsys):
    axes = ("student.rank=2", "student.seed=1,2,3,4,5,6", "repetition=1,2")
    given = [word for axis in axes for word in ("--axis", axis)]
    command = ["sweep", "rank_study", "--scale", "null", "--local", "--store", str(tmp_path), *given]
    assert main(command) == 0
    folder = tmp_path / "reports" / "rank_study-null"
    summary = json.loads((folder / "report.json").read_text())
    assert summary["sections"][0]["name"] == "rehearsal"
    (difference,) = summary["differences"]
    assert difference["planned"] == len(difference["pairs"]) == 6
    assert difference["verdict"] in ("supported", "contradicted", "inconclusive")
    assert summary["description"].startswith("A rehearsal without any effect: ")
    for name in ("report.html", "report.md"):
        assert "Clopper-Pearson" in (folder / name).read_text()
    capsys.readouterr()
    assert main(command) == 0
    assert "nothing to execute" in capsys.readouterr().err
