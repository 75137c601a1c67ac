"""A search goes on: after a kill, without its file, without its journal, and for more points; nothing runs twice."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.errors import StoreError, UserError
from orchestrator.search.journal import is_recorded, journal_path, record
from orchestrator.search.points import best_of, front, points_of
from orchestrator.space import Choice, Objective
from orchestrator.store import Store
from tests.orchestrator.search.searched import SPACE, Searched, search_study
from tests.orchestrator.synthetic import fill


def made(store: Store) -> dict[str, int]:
    return {run_id: (store.artefact(run_id) / "record.json").stat().st_mtime_ns for run_id in store.ids()}


def values(searched: Searched) -> list[dict]:
    return [dict(one.values) for one in searched.ledger.asked()]


def loaded(store: Store) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(journal_path(store))))
    return optuna.load_study(study_name="search fake", storage=storage)


def test_it_asks_for_as_many_points_as_it_was_told_and_the_same_again_asks_for_none(tmp_path):
    searched = Searched(search_study(points=6, seeds=(1, 2)), tmp_path)
    plan = searched.run()
    points = points_of(plan, searched.store.records(run.id for run in plan.runs))
    assert [point.state for point in points] == ["done"] * 6
    assert all(len(point.asked.runs) == 2 for point in points)
    before = made(searched.store)
    again = Searched(search_study(points=6, seeds=(1, 2)), tmp_path)
    again.run()
    assert made(again.store) == before
    assert values(again) == values(searched)


def test_a_point_is_judged_by_the_mean_over_its_seeds(tmp_path):
    searched = Searched(search_study(points=2, seeds=(1, 2, 3)), tmp_path)
    plan = searched.run()
    records = searched.store.records(run.id for run in plan.runs)
    for point in points_of(plan, records):
        losses = [records[run].metrics["final_eval_loss"] for run in point.asked.runs]
        assert point.values == pytest.approx((sum(losses) / 3,))


def test_a_search_that_was_cut_asks_for_what_it_would_have_asked_for(tmp_path):
    whole = Searched(search_study(points=9), tmp_path / "whole")
    whole.run()
    cut = Searched(search_study(points=9), tmp_path / "cut")
    cut.run(rounds=4)
    cut.asking.ask()  # asked for, and then killed before anything of it ran
    again = Searched(search_study(points=9), tmp_path / "cut")
    again.run()
    assert values(again) == values(whole)


def test_more_points_come_after_those_there_are(tmp_path):
    first = Searched(search_study(points=5), tmp_path)
    first.run()
    before, known = made(first.store), values(first)
    more = Searched(search_study(points=8), tmp_path)
    more.run()
    assert values(more)[:5] == known
    assert len(values(more)) == 8
    assert {run_id: when for run_id, when in made(more.store).items() if run_id in before} == before
    fewer = Searched(search_study(points=5), tmp_path)
    assert len(fewer.plan().points) == 8, "what was asked for stays"


def test_without_its_file_a_search_finds_its_points_in_the_records(tmp_path):
    searched = Searched(search_study(points=6, seeds=(1, 2)), tmp_path)
    searched.run()
    before, known = made(searched.store), values(searched)
    searched.ledger.path.unlink()
    again = Searched(search_study(points=6, seeds=(1, 2)), tmp_path)
    assert values(again) == known
    again.run()
    assert made(again.store) == before
    assert again.ledger.path.is_file()


def test_points_that_another_study_has_run_are_known_only_where_all_their_settings_agree(tmp_path):
    searched = Searched(search_study(points=4), tmp_path)
    searched.run()
    longer = search_study(points=4).with_setting("student", "steps", 40)
    assert values(Searched(longer, tmp_path)) == []
    wider = search_study(points=4, space={**SPACE, "student.init": Choice("random", "svd", "pissa")})
    assert values(Searched(wider, tmp_path)) == values(searched)


def test_a_repeat_is_told_and_not_run(tmp_path):
    space = {"student.rank": Choice(2, 4)}
    searched = Searched(search_study(points=6, space=space), tmp_path)
    plan = searched.run()
    assert len(plan.points) == 6
    assert len(plan.of_stage("student")) == 2
    record(plan, searched.store)
    assert [trial.state.name for trial in loaded(searched.store).trials] == ["COMPLETE"] * 6


def test_a_small_space_is_looked_through_before_points_are_asked_for_again(tmp_path):
    space = {"student.rank": Choice(2, 4, 8), "student.init": Choice("random", "svd")}
    searched = Searched(search_study(points=6, space=space, sampler="random"), tmp_path)
    searched.run()
    assert len({tuple(sorted(one.items())) for one in values(searched)}) == 6


def test_as_many_points_are_open_as_there_are_slots(tmp_path):
    searched = Searched(search_study(points=9, seeds=(1,)), tmp_path)
    searched.asking.slots = 4
    assert len(searched.asking.ask().points) == 4
    both = Searched(search_study(points=9, seeds=(1, 2)), tmp_path / "both")
    both.asking.slots = 4
    assert len(both.asking.ask().points) == 3, "one more: a point's runs do not end together"


def test_a_search_whose_first_points_all_fail_stops_asking(tmp_path):
    study = search_study(points=30).with_setting("student", "fate", "failed")
    searched = Searched(study, tmp_path)
    for _ in range(8):
        fill(searched.asking.ask(), searched.store)
    assert len(searched.plan().points) == 5


def test_diverged_and_failed_points_are_told_as_such_and_a_run_made_well_is_done(tmp_path):
    searched = Searched(search_study(points=3), tmp_path)
    plan = searched.run()
    store = searched.store
    runs = [point.runs[0] for point in plan.points]
    for run_id, status in zip(runs, ("diverged", "failed"), strict=False):
        whole = store.record(run_id)
        assert whole is not None
        store.forget(run_id)
        folder = store.failures / run_id / "1"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(whole.model_copy(update={"status": status}).model_dump_json())
    record(plan, store)
    told = [(trial.state.name, trial.user_attrs["status"]) for trial in loaded(store).trials]
    assert told == [("FAIL", "diverged"), ("FAIL", "failed"), ("COMPLETE", "done")]
    fill(plan, store)
    record(plan, store)
    assert [trial.state.name for trial in loaded(store).trials] == ["COMPLETE"] * 3


def test_the_journal_shows_running_points_and_follows_them(tmp_path):
    searched = Searched(search_study(points=4), tmp_path)
    searched.run(rounds=2)
    plan = searched.asking.ask()
    record(plan, searched.store)
    assert [trial.state.name for trial in loaded(searched.store).trials] == ["COMPLETE", "COMPLETE", "RUNNING"]
    plan = searched.run()
    assert record(plan, searched.store) == 1
    study = loaded(searched.store)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert [trial.params for trial in study.trials] == values(searched)
    assert study.best_trial.user_attrs["names"] == [plan[plan.points[study.best_trial.number].runs[0]].name]
    assert is_recorded(plan, searched.store)
    journal_path(searched.store).unlink()
    assert record(plan, searched.store) == 4
    assert [trial.values for trial in loaded(searched.store).trials] == [trial.values for trial in study.trials]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_two_objectives_have_a_front(tmp_path, sampler):
    objectives = (Objective("final_eval_loss"), Objective("trainable_parameters"))
    study = search_study(points=14, sampler=sampler, objectives=objectives)
    searched = Searched(study, tmp_path)
    plan = searched.run()
    points = points_of(plan, searched.store.records(run.id for run in plan.runs))
    assert study.search is not None
    kept = front(points, study.search)
    record(plan, searched.store)
    best = loaded(searched.store).best_trials
    assert {point.values for point in kept} == {tuple(trial.values) for trial in best}
    if sampler == "nsga2":
        generations = [one.attrs["NSGAIISampler:generation"] for one in searched.ledger.asked()]
        assert generations == sorted(generations)
        assert generations[-1] == 3, "14 points in populations of 4"


def test_the_sampler_learns(tmp_path):
    """Thirty points of a space in which the SVD start is better by far: most of the later ones have it."""
    searched = Searched(search_study(points=30), tmp_path)
    plan = searched.run()
    later = [point.values["student.init"] for point in plan.points[10:]]
    assert later.count("svd") >= 14
    points = points_of(plan, searched.store.records(run.id for run in plan.runs))
    best = best_of(points, searched.asking.search)
    assert best is not None
    assert best.at["student.init"] == "svd"


def test_seeds_make_other_searches(tmp_path):
    one = Searched(search_study(points=4, seed=1), tmp_path / "one")
    other = Searched(search_study(points=4, seed=2), tmp_path / "other")
    one.run()
    other.run()
    assert values(one) != values(other)


def test_an_objective_that_nothing_measures_is_named(tmp_path):
    study = search_study(objectives=(Objective("test_los"),))
    with pytest.raises(UserError, match="points are judged by 'test_los'"):
        Searched(study, tmp_path).run()


def test_a_metric_of_the_evaluation_judges_once_it_is_there(tmp_path):
    searched = Searched(search_study(points=2, objectives=(Objective("test_loss"),)), tmp_path)
    plan = searched.asking.ask()
    names = {run.name for run in plan.of_stage("evaluate")}
    fill(plan, searched.store, leave_out=names)
    assert len(searched.asking.ask().points) == 1
    fill(searched.plan(), searched.store)
    assert len(searched.asking.ask().points) == 2


def test_a_damaged_file_is_named_with_the_way_out(tmp_path):
    searched = Searched(search_study(points=2), tmp_path)
    searched.run()
    searched.ledger.path.write_text("{")
    with pytest.raises(StoreError, match="delete it, and the search goes on"):
        Searched(search_study(points=2), Path(tmp_path)).plan()
