"""Planning with a setting that is selected: from records that are invented, and named by the runs they are of."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from orchestrator.changes import Changes
from orchestrator.errors import UnknownName, UserError
from orchestrator.fingerprints import FilePlanner
from orchestrator.outlook import blocked, expected_line
from orchestrator.plan import Plan, Run
from orchestrator.planning import expand
from orchestrator.selection import CLEAR, Tried, grid_of, leads
from orchestrator.store import Store
from orchestrator.studies import load
from orchestrator.study import By, Comparison, Computed, Selected, Stage, Study, around
from search_spaces.scales import SCALES
from tests.orchestrator.told import RATES, Known, Loss, chosen, study, valley


@pytest.fixture
def known(tmp_path):
    return lambda of=None: Known(tmp_path, of or study())


# -- what is planned ------------------------------------------------------------------------------------------


def test_an_open_selection_plans_its_tuning_runs_and_counts_what_follows(known):
    plan = known().plan()
    tuning = [run for run in plan.runs if run.purpose == "tuning"]
    assert len(tuning) == 2 * 2 * 3 * 2
    assert {run.stage for run in tuning} == {"student"}, "tuning runs are not evaluated"
    assert {run.config.seed for run in tuning} == {101, 102}
    assert Counter(run.stage for run in plan.expected) == {"student": 12, "evaluate": 12}
    assert not {run.config.seed for run in plan.of_stage("student")} & {1, 2, 3}
    assert expected_line(plan, {run.id for run in plan.runs}) == (
        "12 student and 12 evaluate runs once student.learning_rate is selected: 24 tuning runs first, more if a best "
        "lies on an edge"
    )


def test_tuning_runs_are_named_as_such_and_no_two_runs_alike(known):
    names = [run.name for run in known().plan().runs]
    assert "svd r4 s101 lr3.2e-4 tuning" in names
    assert len(set(names)) == len(names)


def test_a_selected_rate_and_the_same_rate_by_hand_are_the_same_run(known, tmp_path):
    one = study(axes=("student.init=random",))
    selected = known(one).settle(valley(random=1e-2))
    by_hand = one.with_setting("student", "learning_rate", 0.01)
    plain = expand(by_hand, FilePlanner(Store(tmp_path / "runs"), tmp_path))
    verdict = [(run.id, run.name) for run in selected.runs if run.purpose == "verdict"]
    assert verdict == [(run.id, run.name) for run in plain.runs]
    assert not selected.expected


def test_every_arm_and_rank_chooses_for_itself_by_the_mean_over_the_tuning_seeds(known):
    def loss(run: Run) -> float:
        best = {(2, "random"): 1e-2, (4, "random"): 3.2e-3, (2, "svd"): 3.2e-5, (4, "svd"): 3.2e-4}
        noise = 0.2 if run.config.seed == 101 else -0.2
        tilt = noise * math.log10(run.config.learning_rate)
        return tilt + (math.log10(run.config.learning_rate / best[run.config.rank, run.config.init])) ** 2

    plan = known().settle(loss)
    assert chosen(plan) == {(2, "random"): 1e-2, (4, "random"): 3.2e-3, (2, "svd"): 3.2e-5, (4, "svd"): 3.2e-4}
    assert {run.config.seed for run in plan.of_stage("student") if run.purpose == "verdict"} == {1, 2, 3}


def test_a_plan_depends_on_the_records_and_not_on_the_order_they_came_in(known):
    forward, backward = known(), known()
    loss = valley(random=0.1, svd=3e-6)
    while runs := forward.untold():
        forward.tell(runs[0], loss(runs[0]))
    while runs := backward.untold():
        backward.tell(runs[-1], loss(runs[-1]))
    assert [run.id for run in forward.plan().runs] == [run.id for run in backward.plan().runs]


def test_arms_that_are_settled_are_planned_while_others_are_open(known):
    some = known()
    for run in some.untold():
        if run.config.init == "random":
            some.tell(run, valley(random=1e-2)(run))
    plan = some.plan()
    assert Counter(run.labels.get("student.init") for run in plan.of_stage("student") if run.purpose == "verdict") == {
        "random": 6
    }
    assert {run.labels["student.init"] for run in plan.expected} == {"svd"}
    assert [item.labels["student.init"] for item in plan.open] == ["svd", "svd"]


# -- the grid -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("best", "rates"),
    [
        (0.1, [3.2e-3, 1e-2, 3.2e-2, 0.1, 0.32]),
        (1e-3, [3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2]),
        (1e-2, [3.2e-3, 1e-2, 3.2e-2]),
    ],
)
def test_a_grid_grows_on_the_side_of_its_best_until_that_is_inside(known, best, rates):
    plan = known(study(axes=("student.init=random",))).settle(valley(random=best))
    for item in plan.selections:
        assert [tried.value for tried in item.tried] == rates
        assert (item.value, item.state) == (best, "chosen")


def test_a_grid_that_may_not_grow_any_further_is_on_the_edge_and_says_so(known):
    of = study(Selected(RATES, widenings=1), axes=("student.init=random",))
    plan = known(of).settle(valley(random=100.0))
    assert not plan.expected
    for item in plan.selections:
        assert (item.value, item.state, len(item.tried)) == (0.1, "on the edge", 4)
        assert "0.1, on the edge of its grid" in str(item)


def test_of_equal_values_the_smallest_is_taken(known):
    plan = known(study(axes=("student.init=random",))).settle(lambda run: max(1.2, valley(random=1.8e-2)(run)))
    assert set(chosen(plan).values()) == {1e-2}, "1e-2 and 3.2e-2 are as good"
    flat = known(study(Selected(RATES, widenings=0), axes=("student.init=random",))).settle(lambda run: 1.0)
    assert set(chosen(flat).values()) == {3.2e-3}


def test_a_diverged_rate_is_infinitely_bad_even_if_only_one_seed_diverged(known):
    def loss(run: Run) -> float | str:
        if run.config.learning_rate > 5e-3 and run.config.seed == 102:
            return "diverged"
        return -math.log10(run.config.learning_rate)

    plan = known(study(axes=("student.init=random",))).settle(loss)
    assert set(chosen(plan).values()) == {3.2e-3}
    assert {item.state for item in plan.selections} == {"chosen"}, "the grid grew downwards"


def test_a_selection_whose_values_all_diverge_is_blocked_with_words(known):
    plan = known(study(axes=("student.init=random",))).settle(lambda run: "diverged")
    assert plan.expected
    assert [item.state for item in plan.selections] == ["blocked", "blocked"]
    assert all("every value diverged" in line and "choose lower ones" in line for line in blocked(plan))


def test_a_failed_tuning_run_leaves_its_selection_open_and_is_named(known):
    some = known()
    first = some.untold()[0]
    some.tell(first, "oom")
    for run in some.untold():
        some.tell(run, valley(random=1e-2, svd=1e-4)(run))
    plan = some.plan()
    (item,) = plan.open
    assert item.failed == (first.id,)
    (line,) = blocked(plan)
    assert line == (
        f"student.learning_rate of rank 2, init random is not selected: 1 of its tuning runs failed, first {first.id}"
    )
    some.tell(first, 9.0)
    assert not some.plan().open


def test_two_digits_and_equal_steps_for_every_scale_arm_and_rank():
    for scale in SCALES.values():
        grids = [grid_of(scale.grid(init, rank), "rate") for init in scale.learning_rates for rank in scale.ranks]
        assert all(grid.is_like(grids[0]) and len(grid.values) == 3 for grid in grids)
        assert not set(scale.tuning_seeds) & set(range(1, scale.seeds + 1))


def uneven(init):
    return around(1e-2) if init == "random" else around(1e-4, count=5)


def finer(init):
    return around(1e-2) if init == "random" else around(1e-4, ratio=2)


@pytest.mark.parametrize(
    ("selected", "complaint"),
    [
        (Selected((1e-3, 1e-2)), "give at least 3 values"),
        (Selected(1e-3), "selected from 0.001; give at least 3"),
        (Selected((1e-2, 1e-3, 1e-4)), "positive numbers from small to large"),
        (Selected((0, 1e-3, 1e-2)), "positive numbers from small to large"),
        (Selected((1e-4, 1e-3, 2e-3)), "not equally far apart"),
        (Selected(Computed(uneven, "student.init")), "give every arm as many values"),
        (Selected(Computed(finer, "student.init")), "as far apart"),
        (Selected(RATES, seeds=()), "give Selected some seeds"),
        (Selected(RATES, seeds=(101, 102), start=3), "on 2 seeds, of which 3 start: start with 1 to 2"),
        (Selected(RATES, seeds=(3, 101)), "is selected on student.seed 3, which the verdict uses too"),
        (Selected(RATES, per=("student.rnak",)), "Did you mean 'student.rank'?"),
        (Selected(RATES, per=("student.rank",)), "select it per the axes they follow"),
    ],
)
def test_a_selection_that_is_none_is_one_line(known, selected, complaint):
    with pytest.raises(UserError) as caught:
        known(study(selected)).plan()
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_metric_that_was_not_measured_is_named_with_those_that_were(known):
    some = known(study(Selected(RATES, metric="eval_los")))
    some.tell(some.untold()[0], 1.0)
    with pytest.raises(UserError, match=r"selected by 'eval_los', which student-\w+ has not measured; it has final_e"):
        some.plan()


def test_a_stage_that_does_not_follow_the_replicates_has_nothing_to_tune_on(known):
    of = study().with_setting("teacher", "learning_rate", Selected(around(1e-3)))
    with pytest.raises(UserError, match=r"the runs of teacher do not follow student\.seed"):
        known(of).plan()


# -- racing ---------------------------------------------------------------------------------------------------

RACE = Selected(RATES, seeds=tuple(range(101, 109)), start=2)


def noisy(seed: int, noise: float, **best: float) -> Loss:
    """Return a loss with noise of each run's own."""
    rng = np.random.default_rng(seed)
    own: dict[str, float] = {}
    return lambda run: valley(**best)(run) + own.setdefault(run.id, float(noise * rng.normal()))


def seeds_of(plan: Plan) -> dict[float, int]:
    (item,) = plan.selections
    return {tried.value: len(tried.runs) for tried in item.tried}


def test_a_clear_choice_takes_no_more_than_the_seeds_it_starts_with(known):
    of = study(RACE, axes=("student.init=random", "student.rank=4"))
    plan = known(of).settle(noisy(0, 0.01, random=1e-2))
    assert seeds_of(plan) == {3.2e-3: 2, 1e-2: 2, 3.2e-2: 2}
    assert {run.config.seed for run in plan.runs if run.purpose == "tuning"} == {101, 102}
    assert plan.selections[0].lead.is_clear


def test_a_race_of_two_is_expected_until_it_is_known_who_races(known):
    """Six tuning runs are planned and twice six more expected; those of two values on eight seeds, once they race."""
    of = study(RACE, axes=("student.init=random", "student.rank=4"))
    some = known(of)

    def ahead(plan: Plan) -> dict[float, int]:
        return dict(Counter(run.config.learning_rate for run in plan.expected if run.purpose == "tuning"))

    plan = some.plan()
    assert ahead(plan) == {3.2e-3: 6, 1e-2: 6}
    assert not {run.id for run in plan.expected} & {run.id for run in plan.runs}
    assert "6 tuning runs first, some 12 more where the best is not clear" in expected_line(
        plan, {run.id for run in plan.runs}
    )
    loss, expected = noisy(3, 0.05, random=1.8e-2), []
    while runs := some.untold():
        for run in runs:
            some.tell(run, loss(run))
        expected.append(ahead(some.plan()))
    grown, on_four, on_eight, over = expected
    assert grown == {1e-2: 6, 3.2e-2: 6}, "the grid has grown to 0.1, and all are on two seeds"
    assert on_four == {1e-2: 4, 3.2e-2: 4}
    assert on_eight == over == {}


def test_values_within_noise_of_the_best_race_on_twice_as_many_seeds_and_the_others_do_not(known):
    """Between 1e-2 and 3.2e-2 lies the best: both are as good, 3.2e-3 is worse by .5 and 0.1 by .5."""
    of = study(RACE, axes=("student.init=random", "student.rank=4"))
    some, counts = known(of), []
    loss = noisy(3, 0.05, random=1.8e-2)
    while runs := some.untold():
        counts.append(len(runs))
        for run in runs:
            some.tell(run, loss(run))
    plan = some.plan()
    assert counts[0] == 6
    assert sum(counts) == sum(seeds_of(plan).values())
    assert seeds_of(plan)[1e-2] == seeds_of(plan)[3.2e-2] == 8, "noise never tells them apart"
    assert seeds_of(plan)[3.2e-3] == 2
    item = plan.selections[0]
    assert not item.lead.is_clear
    means = {tried.value: tried.mean for tried in item.tried if len(tried.runs) == 8}
    assert item.value == min(means, key=means.get)
    assert "within noise" in str(item)
    assert "of 8" in str(item)


def test_more_seeds_leave_the_runs_that_were_made_as_they_are(known):
    before = {run.id for run in known(study()).untold()}
    racing = known(study(RACE))
    assert {run.id for run in racing.untold()} == before
    for run in racing.untold():
        racing.tell(run, 1.0)
    after = racing.untold()
    assert after
    assert {run.config.seed for run in after} <= {101, 102, 103, 104}, "flat: it widens, and then takes more seeds"


def test_a_race_widens_where_its_best_comes_to_lie_on_an_edge(known):
    """On two seeds 1e-2 is best by luck; on four 3.2e-2 is, and 0.1 joins, on four seeds at once, and is out."""
    of = study(RACE, axes=("student.init=random", "student.rank=4"))
    cost = {3.2e-3: 1.0, 1e-2: 0.2, 3.2e-2: 0.0, 0.1: 1.0}

    def loss(run: Run) -> float:
        is_lucky = (run.config.learning_rate, run.config.seed) == (1e-2, 101)
        return cost[run.config.learning_rate] - 0.5 * is_lucky

    plan = known(of).settle(loss)
    assert seeds_of(plan) == {3.2e-3: 2, 1e-2: 8, 3.2e-2: 8, 0.1: 4}
    assert (plan.selections[0].value, plan.selections[0].state) == (3.2e-2, "chosen")


def test_a_rate_that_diverged_is_out_after_one_seed_even_where_one_seed_shows_no_noise(known):
    of = study(replace(RACE, start=1, widenings=0), axes=("student.init=random", "student.rank=4"))
    loss = valley(random=1e-2)
    plan = known(of).settle(lambda run: "diverged" if run.config.learning_rate > 2e-2 else loss(run))
    assert seeds_of(plan)[3.2e-2] == 1
    assert seeds_of(plan)[1e-2] >= 2


def test_the_error_of_a_lead_is_that_of_values_and_seeds_fitted_by_least_squares():
    rng = np.random.default_rng(2)
    losses = rng.normal(size=(3, 5))
    tried = [Tried(float(at), tuple("abcde"), tuple(map(float, row))) for at, row in enumerate(losses)]
    best = min(tried, key=lambda one: one.mean)
    found = leads(best, [one for one in tried if one is not best])
    design = np.array([[*(a == i for i in range(3)), *(b == j for j in range(4))] for a in range(3) for b in range(5)])
    _, residual, *_ = np.linalg.lstsq(design.astype(float), losses.ravel(), rcond=None)
    assert [lead.error for lead in found] == pytest.approx([math.sqrt(2 * residual[0] / 8 / 5)] * 2)
    means = sorted(losses.mean(axis=1))
    assert [lead.distance for lead in found] == pytest.approx([means[1] - means[0], means[2] - means[0]])


def test_two_values_are_compared_as_a_paired_t_test_compares_them():
    losses = np.random.default_rng(4).normal(size=(2, 6)) + np.array([[0.0], [1.0]])
    one, other = (Tried(float(at), tuple("abcdef"), tuple(map(float, row))) for at, row in enumerate(losses))
    (lead,) = leads(one, [other])
    t = stats.ttest_rel(losses[1], losses[0]).statistic
    assert lead.distance / lead.error == pytest.approx(t)
    assert lead.is_clear == (t > CLEAR)
    assert lead.regret == pytest.approx(max(0.0, (CLEAR - t) * lead.error))


@pytest.mark.parametrize("count", [1, 4, 8, 12])
def test_tuning_seeds_are_set_on_the_command_line_and_never_the_verdicts(tmp_path, count):
    changes = Changes(scale="laptop", tuning_seeds=count, axes=("student.seed=1,2,109",))
    (rule,) = load("rank_study", changes).selected.values()
    assert len(rule.seeds) == count
    assert rule.seeds[:8] == tuple(range(101, 109))[:count]
    assert not {1, 2, 109} & set(rule.seeds)
    assert rule.start == min(2, count)
    (of_arms,) = load("init_study", replace(changes, axes=())).selected.values()
    assert len(of_arms.seeds) == count, "also where only some arms select"


def test_tuning_seeds_of_a_study_without_selection_are_a_mistake():
    with pytest.raises(UserError, match="--tuning-seeds 4: rank_study selects nothing by tuning runs"):
        load("rank_study", Changes(settings=("student.learning_rate=1e-3",), tuning_seeds=4))
    with pytest.raises(UserError, match="--tuning-seeds 0: a choice needs 1 or more"):
        load("rank_study", Changes(tuning_seeds=0))


# -- for which points -----------------------------------------------------------------------------------------


def test_one_rate_for_all_ranks_is_chosen_by_the_runs_of_all_ranks(known):
    of = study(Selected(RATES, per=("student.init",)))

    def loss(run: Run) -> float:
        best = 3.2e-3 if run.config.rank == 2 else 1e-2
        weight = 1 if run.config.rank == 2 else 10
        by_hand = weight * math.log10(run.config.learning_rate / best) ** 2
        return by_hand if run.config.init == "random" else valley(svd=1e-4)(run)

    plan = known(of).settle(loss)
    assert len(plan.selections) == 2
    assert chosen(plan) == {(2, "random"): 1e-2, (4, "random"): 1e-2, (2, "svd"): 1e-4, (4, "svd"): 1e-4}


def test_with_several_teachers_the_first_one_serves_for_tuning(known):
    plan = known(study().with_axis("teacher.seed", (5, 6))).plan()
    svd = [run for run in plan.runs if run.purpose == "tuning" and run.config.init == "svd"]
    assert {run.labels["teacher.seed"] for run in svd} == {5}
    assert len(plan.selections) == 4


def test_a_rate_given_by_hand_replaces_the_selection(tmp_path):
    of = load("rank_study", Changes(scale="tiny", settings=("student.learning_rate=2e-3",)))
    plan = expand(of, FilePlanner(Store(tmp_path / "runs"), tmp_path))
    assert {run.config.learning_rate for run in plan.of_stage("student")} == {2e-3}
    assert (plan.expected, plan.selections) == ((), ())
    swept = load("rank_study", Changes(scale="tiny", axes=("student.learning_rate=1e-3,2e-3",)))
    assert not expand(swept, FilePlanner(Store(tmp_path / "runs"), tmp_path)).selections


def test_seeds_of_the_verdict_that_were_tuned_on_are_refused_on_the_command_line_too(tmp_path):
    of = load("rank_study", Changes(scale="tiny", axes=("student.seed=100,101",)))
    with pytest.raises(UserError, match=r"student\.seed 101, which the verdict uses too.*--axis student\.seed"):
        expand(of, FilePlanner(Store(tmp_path / "runs"), tmp_path))


def test_until_a_stage_before_the_students_leaves_the_selection_out(known):
    plan = known().plan()
    assert [run.stage for run in plan.until("teacher").runs] == ["base_model", "dataset", "teacher"]
    assert not plan.until("teacher").expected
    students = plan.until("student")
    assert {run.stage for run in students.expected} == {"student"}
    assert sum(run.purpose == "tuning" for run in students.runs) == 24


# -- axes without a dot, inputs by axis, alternatives further up ------------------------------------------------


def arms(**changes) -> Study:
    """A free axis `arm` that decides the student's init and, for one of them, which teacher its export is of."""
    base = study().with_setting("student", "learning_rate", 1e-3)
    stages = dict(base.stages)
    teacher, export, student = (stages[name] for name in ("teacher", "svd_export", "student"))
    stages["other_teacher"] = Stage("teacher", {**teacher.config, "seed": 9}, teacher.inputs)
    stages["svd_export"] = Stage(
        "svd_export",
        export.config,
        {"base_model": "base_model", "teacher": By("arm", wrong="other_teacher", otherwise="teacher")},
    )
    inits = By("arm", random="random", otherwise="svd")
    stages["student"] = Stage("student", {**student.config, "init": inits}, student.inputs)
    axes = {name: values for name, values in base.axes.items() if name != "student.init"}
    axes = {"arm": ("random", "svd", "wrong"), **axes}
    comparison = Comparison(arm="arm", baseline="random")
    return Study("arms", "Arms.", stages, axes, comparison, base.scale)


def test_an_axis_without_a_dot_may_be_the_arm(known):
    plan = known(arms()).plan()
    students = plan.of_stage("student")
    assert Counter(run.labels["arm"] for run in students) == {"random": 6, "svd": 6, "wrong": 6}
    assert len({run.id for run in students}) == 18
    assert {run.config.init for run in students if run.labels["arm"] == "wrong"} == {"svd"}
    assert plan.study.compared_stage == "student"
    assert "random r2 s1" in {run.name for run in students}


def test_an_input_may_depend_on_an_axis(known):
    plan = known(arms()).plan()
    teachers = {run.id: run.stage for run in plan.runs if run.trainable == "teacher"}
    exports = {run.labels.get("arm"): teachers[run.inputs["teacher"]] for run in plan.of_stage("svd_export")}
    assert exports["wrong"] == "other_teacher"
    assert set(exports.values()) == {"teacher", "other_teacher"}


def test_an_input_that_the_axis_does_not_give_is_one_line(known):
    of = arms()
    export = of.stages["svd_export"]
    inputs = {**export.inputs, "teacher": By("arm", svd="teacher")}
    with pytest.raises(
        UserError, match=r"svd_export.teacher is not given for arm=\w+ \(only for svd\); name its stage"
    ):
        known(of.with_stage("svd_export", Stage("svd_export", export.config, inputs))).plan()
    inputs = {**export.inputs, "teacher": By("arm", svd="techer", otherwise="teacher")}
    with pytest.raises(UnknownName, match=r"reads from 'techer'.*Did you mean 'teacher'"):
        known(of.with_stage("svd_export", Stage("svd_export", export.config, inputs))).plan()


def test_alternatives_of_a_stage_reach_all_that_reads_from_it(known):
    of = study(axes=("student.init=svd",)).with_setting("student", "learning_rate", 1e-3)
    teacher, export = of.stages["teacher"], of.stages["svd_export"]
    of = of.with_stage("other", Stage("teacher", {**teacher.config, "seed": 9}, teacher.inputs))
    inputs = {**export.inputs, "teacher": ("teacher", "other")}
    plan = known(of.with_stage("svd_export", Stage("svd_export", export.config, inputs))).plan()
    assert Counter(run.stage for run in plan.runs) == {
        "base_model": 1,
        "dataset": 1,
        "teacher": 1,
        "other": 1,
        "svd_export": 2,
        "student": 12,
        "evaluate": 12 + 2 * 2 + 2,  # the students, two exports at two ranks, base model and teacher
    }
    assert Counter(run.labels["svd_export.teacher"] for run in plan.of_stage("student")) == {"teacher": 6, "other": 6}
