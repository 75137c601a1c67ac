from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.errors import UserError
from orchestrator.replication import design_of, key_of, replicate_axes, splitting_axes
from orchestrator.store import Store
from orchestrator.study import Axis, Collected, Comparison, Stage, Study
from tests.orchestrator.synthetic import FAKES, READS, planned, rank_study
from trainables.base import InputError


def design(study: Study, folder):
    found = design_of(planned(study, Store(folder)))
    assert found is not None
    return found


def with_comparison(study: Study, **changes) -> Study:
    assert study.comparison is not None
    return replace(study, comparison=replace(study.comparison, **changes))


def test_a_replicate_is_split_then_teacher_then_student(tmp_path):
    study = rank_study(seeds=2).with_axis("teacher.seed", (1, 2)).with_axis("dataset.fold", (0, 1, 2))
    assert list(replicate_axes(study).values()) == ["split", "teacher", "student"]
    assert key_of(study, {"student.seed": 2, "dataset.fold": 0, "student.rank": 4}) == (0, None, 2)


def test_students_of_one_teacher_and_split_count_and_share_their_seeds_over_ranks(tmp_path):
    found = design(rank_study(ranks=(4, 16), seeds=6), tmp_path)
    assert (found.family, found.have, found.method, found.counted) == (2, 6, "westfall-young", ("student",))
    assert found.needed == 6


def test_several_splits_count_and_their_students_do_not(tmp_path):
    found = design(rank_study(ranks=(4,), seeds=3).with_axis("dataset.fold", (0, 1)), tmp_path)
    assert (found.have, found.counted) == (2, ("split",))


def test_teachers_count_where_every_arm_has_one_and_not_where_random_reads_none(tmp_path):
    crossed = rank_study(ranks=(4,), seeds=3).with_axis("teacher.seed", (1, 2))
    assert design(crossed, tmp_path).counted == ("student",), "random knows no teacher"
    both_read = with_comparison(
        rank_study(ranks=(4,), inits=("svd",), seeds=3)
        .with_axis("teacher.seed", (1, 2))
        .with_axis("student.lora_alpha", (4.0, 8.0)),
        arm="student.lora_alpha",
        baseline=4.0,
    )
    found = design(both_read, tmp_path)
    assert (found.have, found.counted) == (2, ("teacher",)), "its three students share each teacher's luck"


def test_members_that_are_collected_make_no_replicates_and_no_groups(tmp_path):
    plain = rank_study(ranks=(4,), seeds=3)
    mean = Stage(f"{FAKES}.teacher", {}, {**READS, "dataset": Collected("dataset", over="dataset.split_seed")})
    study = plain.with_stage("teacher", mean).with_axis("dataset.split_seed", (1, 2))
    assert study.collected == {"dataset.split_seed"}
    assert list(replicate_axes(study)) == ["student.seed"]
    assert splitting_axes(study) == ["student.rank"]
    assert splitting_axes(plain.with_axis("student.lora_alpha", (4.0, 8.0))) == ["student.rank", "student.lora_alpha"]


def test_one_line_gives_every_seed_a_teacher_of_its_own(tmp_path):
    study = rank_study(ranks=(4,), seeds=6).with_setting("teacher", "seed", Axis("student.seed"))
    plan = planned(study, Store(tmp_path))
    assert len(plan.of_stage("teacher")) == 6
    found = design_of(plan)
    assert found is not None
    assert found.have == 6


def test_looks_ask_for_the_largest_declared_number_and_refuse_more(tmp_path):
    looking = with_comparison(rank_study(ranks=(4,), seeds=8), looks=(8, 12))
    found = design(looking, tmp_path)
    assert (found.have, found.planned) == (8, 12)
    assert [look.n for look in found.looks] == [8, 12]
    with pytest.raises(UserError, match="8 replicates; the last look is the largest"):
        design(with_comparison(looking, looks=(4, 6)), tmp_path)


def test_a_study_without_arms_has_no_design(tmp_path):
    study = rank_study(ranks=(4,), seeds=2)
    alone = replace(study, axes={name: values for name, values in study.axes.items() if name != "student.init"})
    alone = alone.with_setting("student", "init", "svd").with_setting("student", "learning_rate", 1e-4)
    alone = alone.with_setting("student", "fate", "done")
    assert design_of(planned(alone, Store(tmp_path))) is None


@pytest.mark.parametrize("bad", [{"margin": 0.0}, {"margin": float("nan")}, {"looks": (8, 6)}, {"looks": (0, 6)}])
def test_margins_and_looks_that_mean_nothing_are_refused(bad):
    with pytest.raises(InputError, match=r"above 0|increasing"):
        Comparison(**bad)
