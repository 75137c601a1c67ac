"""Planning with a setting that is selected: from records that are invented, and named by the runs they are of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest

from orchestrator.errors import UnknownName, UserError
from orchestrator.fingerprints import FilePlanner
from orchestrator.outlook import blocked, expected_line
from orchestrator.plan import Plan, Planning, Run, expand
from orchestrator.selection import grid_of
from orchestrator.store import Provenance, Record, Store
from orchestrator.studies import Changes, load
from orchestrator.study import By, Comparison, Computed, Selected, Stage, Study, around
from search_spaces.scales import SCALES

RATES = By("student.init", random=around(1e-2), svd=around(1e-4))
Loss = Callable[[Run], float | str]


def study(selected: Selected | None = None, **changes: tuple[str, ...]) -> Study:
    """Two ranks, two inits, three seeds, at tiny scale."""
    axes = ("student.rank=2,4", "student.seed=1,2,3", *changes.pop("axes", ()))
    built = load("rank_study", Changes(scale="tiny", axes=axes, **changes))
    return built.with_setting("student", "learning_rate", selected or Selected(RATES, seeds=(101, 102)))


class Known:
    """Records of runs that ended with a loss, or with a status where the loss is one."""

    def __init__(self, tmp_path, of: Study) -> None:
        self.records: dict[str, Record] = {}
        self.planning = Planning(of, FilePlanner(Store(tmp_path / "runs"), tmp_path))

    def plan(self) -> Plan:
        return self.planning(self.records.get)

    def tell(self, run: Run, loss: float | str) -> None:
        status = loss if isinstance(loss, str) else "done"
        metrics = {} if isinstance(loss, str) else {"final_eval_loss": loss}
        when = Provenance(
            started="", finished="", seconds=1, attempt=1, host="here", device="cpu", place={}, source="", git=""
        )
        about = {"name": run.name, "stage": run.stage, "trainable": run.trainable, "version": run.version}
        config = {"config": run.config.identity(), "settings": run.config.model_dump(), "inputs": dict(run.inputs)}
        self.records[run.id] = Record(
            id=run.id, **about, **config, status=status, error="", metrics=metrics, provenance=when
        )

    def untold(self) -> list[Run]:
        return [run for run in self.plan().runs if run.purpose == "tuning" and run.id not in self.records]

    def settle(self, loss: Loss) -> Plan:
        """Tell the losses of all tuning runs until none is missing."""
        while runs := self.untold():
            for run in runs:
                self.tell(run, loss(run))
        return self.plan()


def valley(**best: float) -> Loss:
    """Return a loss that is smallest at one rate for each init."""
    return lambda run: 1 + (math.log10(run.config.learning_rate) - math.log10(best[run.config.init])) ** 2


def chosen(plan: Plan) -> dict[tuple[int, str], float]:
    found = {(run.config.rank, run.config.init): set() for run in plan.of_stage("student")}
    for run in plan.of_stage("student"):
        if run.purpose == "verdict":
            found[run.config.rank, run.config.init].add(run.config.learning_rate)
    return {key: min(rates) for key, rates in found.items() if len(rates) == 1}


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
        "lies on an edge or is not clear"
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
