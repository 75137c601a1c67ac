"""Runs of a search that end early: by whom they are judged, and that nothing takes them for finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.local import LocalBackend
from orchestrator import sweep
from orchestrator.decisions import decide
from orchestrator.fingerprints import FilePlanner
from orchestrator.live.reporter import Reporter
from orchestrator.planning import Planning
from orchestrator.search.points import points_of
from orchestrator.search.pruning import should_prune
from orchestrator.space import Prune
from orchestrator.views import Views
from tests.orchestrator.search.searched import Searched, search_study
from tests.orchestrator.synthetic import rank_study

ASHA = Prune("asha", first=5, reduction=2)


def falling(end: float, to: int = 20, every: int = 5) -> dict[int, float]:
    return {step: end + 1 / step for step in range(every, to + 1, every)}


@pytest.mark.parametrize(("end", "is_pruned"), [(1.0, False), (2.5, False), (3.5, True), (9.0, True)])
def test_successive_halving_keeps_the_better_half_of_those_that_came_so_far(end, is_pruned):
    others = [falling(2.0), falling(3.0), falling(4.0)]
    assert should_prune(ASHA, falling(end, to=5), others, length=20) == is_pruned


def test_successive_halving_asks_at_its_rungs_only():
    others = [falling(1.0), falling(1.0), falling(1.0)]
    assert should_prune(ASHA, falling(9.0, to=5), others, length=20)
    passed = {5: 0.5, 10: 9.0, 15: 9.0}
    assert should_prune(ASHA, {5: 0.5, 10: 9.0}, others, length=20)
    assert not should_prune(Prune("asha", first=5, reduction=4), {5: 0.5, 10: 9.0}, others, length=20)
    assert not should_prune(ASHA, {**passed, 20: 9.0}, others, length=20), "at the last step there is nothing to save"


def test_nothing_ends_before_there_is_a_number_to_keep_one_of():
    three = Prune("asha", first=5, reduction=3)
    assert not should_prune(three, falling(9.0, to=5), [falling(1.0)], length=20)
    assert should_prune(three, falling(9.0, to=5), [falling(1.0), falling(2.0)], length=20)


@pytest.mark.parametrize(("end", "is_pruned"), [(2.9, False), (3.1, True)])
def test_the_median_rule_compares_at_the_same_step(end, is_pruned):
    rule = Prune("median", first=10, startup=3)
    others = [falling(1.0), falling(3.0), falling(5.0)]
    assert should_prune(rule, falling(end, to=10), others, length=20) == is_pruned
    assert not should_prune(rule, falling(9.0, to=5), others, length=20), "before its first step"
    assert not should_prune(rule, falling(9.0, to=10), others[:2], length=20), "before its startup"


def swept(study, root: Path, *, views: bool = True) -> tuple[Searched, int]:
    searched = Searched(study, root)
    plan = searched.plan()
    code = sweep.run(
        plan,
        searched.store,
        replan=searched.plan,
        views=Views(plan, searched.store, root),
        make_backend=LocalBackend,
        command="test",
        reporter=Reporter(root, slots=1),
        asking=searched.asking,
        say=lambda line: None,
    )
    return searched, code


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    searched, code = swept(search_study(points=12, seeds=(1, 2), prune=ASHA), tmp_path_factory.mktemp("pruned"))
    assert code == 0
    return searched


def records_of(searched: Searched):
    return searched.store.records(run.id for run in searched.plan().runs)


def test_a_pruned_run_keeps_its_history_and_its_reason_and_is_no_artefact(pruned):
    plan, records = pruned.plan(), records_of(pruned)
    points = points_of(plan, records)
    assert {point.state for point in points} == {"done", "pruned"}
    for point in points:
        statuses = [records[run].status for run in point.asked.runs if run in records]
        assert (point.state == "pruned") == ("pruned" in statuses)
        for run in point.asked.runs:
            assert (records[run].status == "pruned") == (not pruned.store.is_finished(run))
    first = next(records[p.asked.runs[0]] for p in points if records[p.asked.runs[0]].status == "pruned")
    assert first.error is not None
    assert "asha at step" in first.error
    assert max(step for step in first.history["step"] if step is not None) < 20


def test_runs_are_judged_among_their_own_arm(pruned):
    """The SVD start is ahead of every random one all the way: judged together no random run would end."""
    plan, records = pruned.plan(), records_of(pruned)
    states: dict[str, list[str]] = {}
    for point in points_of(plan, records):
        states.setdefault(str(point.at["student.init"]), []).append(point.state)
    assert all("done" in of_arm for of_arm in states.values())
    ended = [record for record in records.values() if record.status == "pruned"]
    for record in ended:
        own = record.labels["student.init"]
        assert f"runs of {own}" in (record.error or "")


def test_the_same_command_again_executes_nothing_and_ends_well(pruned):
    before = sorted(pruned.store.work.rglob("*")) + sorted(pruned.store.artefacts.iterdir())
    again, code = swept(search_study(points=12, seeds=(1, 2), prune=ASHA), pruned.store.root)
    assert code == 0
    assert sorted(again.store.work.rglob("*")) + sorted(again.store.artefacts.iterdir()) == before
    actions = {item.run.id: item for item in decide(again.plan(), again.store)}
    of_pruned = [actions[record.id] for record in records_of(again).values() if record.status == "pruned"]
    assert {(item.action, item.reason[:7]) for item in of_pruned} == {("cached", "pruned:")}


def test_a_comparison_takes_no_pruned_run_for_finished(pruned):
    record = next(record for record in records_of(pruned).values() if record.status == "pruned")
    labels = record.labels
    study = rank_study(ranks=(labels["student.rank"],), inits=(labels["student.init"],), seeds=2)
    study = study.with_setting("student", "learning_rate", labels["student.learning_rate"])
    plan = Planning(study, FilePlanner(pruned.store))(pruned.store.record)
    assert record.id in plan
    decision = next(item for item in decide(plan, pruned.store) if item.run.id == record.id)
    assert (decision.action, decision.reason[:16]) == ("run", "pruned in a sear")


def test_without_a_rule_what_was_pruned_is_open_again(pruned):
    searched = Searched(search_study(points=12, seeds=(1, 2)), pruned.store.root)
    plan = searched.plan()
    points = points_of(plan, searched.store.records(run.id for run in plan.runs))
    assert "open" in {point.state for point in points}
    assert "pruned" not in {point.state for point in points}
