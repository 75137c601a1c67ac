"""A server that loses answers, goes away, hangs or refuses: nothing waits for it, and in the end all is there once."""

from __future__ import annotations

import base64
import random
import time
from collections import Counter

import pytest

from orchestrator.store import Store
from orchestrator.tracking import Tracker, is_synced
from orchestrator.tracking.current import store_id
from tests.orchestrator.synthetic import execute, fill, filled, planned, rank_study
from tests.orchestrator.tracking.looking import expected, logged, runs_at, wait_until
from tests.orchestrator.tracking.server import Gate, serving
from trainables.base import Progress

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def gate(server, monkeypatch):
    gate = Gate(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")  # the writer's own business, whatever it says
    yield gate
    gate.close()


def assert_all_is_there_once(gate: Gate, plan, store: Store) -> None:
    client, _, children = runs_at(gate.server.uri, store=store_id(store))
    records = store.records(run.id for run in plan.runs)
    assert set(children) == set(records)
    for run_id, record in records.items():
        assert logged(client, children[run_id]) == Counter(dict.fromkeys(expected(record), 1))
        assert children[run_id].data.params
        assert children[run_id].data.tags["status"] == record.status
        assert children[run_id].info.status == "FINISHED"


def test_what_was_carried_out_although_its_answer_was_lost_is_there_once(tmp_path, gate):
    study, store = rank_study(ranks=(4,), seeds=1), Store(tmp_path)
    plan = planned(study, store)
    chance = random.Random(0)
    gate.fate = lambda number: "lose the answer" if chance.random() < 0.08 else "pass"
    tracker = Tracker(study, store, tell=lambda line: None)
    for run in plan.runs:
        tracker.started(run, 1)
        tracker.progressed(run, Progress(0, 20, {"loss": 9.0}))
        tracker.finished(execute(run, store))
    tracker.sync(plan)
    wait_until(lambda: tracker._sender.events.empty())
    assert tracker._sender.was_lost
    gate.fate = lambda number: "pass"
    assert tracker.close() is None
    client, parent, children = runs_at(gate.server.uri, store=store_id(store))
    assert {run.info.status for run in children.values()} == {"FINISHED"} == {parent.info.status}
    for run_id, record in store.records(run.id for run in plan.runs).items():
        assert logged(client, children[run_id]) == Counter(dict.fromkeys(expected(record) | {("loss", 0)}, 1))


def test_a_server_that_is_away_in_the_middle_gets_every_measurement_later_and_one_line_says_each(tmp_path, gate):
    study, store = rank_study(ranks=(4,), seeds=1), Store(tmp_path)
    student = planned(study, store).of_stage("student")[0]
    said: list[str] = []
    tracker = Tracker(study, store, tell=said.append)
    tracker.started(student, 1)
    tracker.progressed(student, Progress(0, 20, {"loss": 4.0}))
    wait_until(lambda: tracker._sender.experiment is not None and student.id in tracker._sender.experiment.children)
    gate.fate = lambda number: "refuse"
    for step in range(1, 200):
        tracker.progressed(student, Progress(step, 200, {"loss": 4.0 - step / 100}))
    wait_until(lambda: bool(said))
    gate.fate = lambda number: "pass"
    wait_until(lambda: len(said) > 1)
    assert tracker.close() is None
    client, _, children = runs_at(gate.server.uri, store=store_id(store))
    assert logged(client, children[student.id]) == Counter({("loss", step): 1 for step in range(200)})
    assert said == [
        f"MLflow: no answer from {gate.uri}; the sweep goes on, and what it misses is sent later",
        f"MLflow: {gate.uri} answers again, and gets what it missed",
    ]


def test_a_server_that_is_gone_costs_no_time_and_the_next_command_sends_what_is_kept(tmp_path, gate):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    gate.fate = lambda number: "refuse"
    tracker = Tracker(study, store, tell=lambda line: None)
    tracker.sync(plan)
    begun = time.monotonic()
    kept = tracker.close(command="the next command")
    assert time.monotonic() - begun < 10
    runs = len(plan.runs)
    lacking = f"what it lacks ({runs} of {runs} runs) is in the store; send it with: the next command"
    assert kept == f"MLflow: no answer from {gate.uri}; {lacking}"
    assert not is_synced(plan, store)
    gate.fate = lambda number: "pass"
    tracker = Tracker(study, store)
    tracker.sync(plan)
    assert tracker.close() is None
    assert is_synced(plan, store)
    assert_all_is_there_once(gate, plan, store)


def test_a_sweep_that_ends_does_not_wait_for_a_server_that_hangs(tmp_path, gate):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    gate.fate = lambda number: "hang"
    tracker = Tracker(study, store)
    tracker.sync(plan)
    tracker.started(plan.runs[0], 1)
    wait_until(lambda: gate.count > 0)
    begun = time.monotonic()
    assert "no answer from" in str(tracker.close(patience_s=1))
    assert time.monotonic() - begun < 5


def test_a_store_that_was_moved_goes_on_in_the_same_runs_of_the_server(tmp_path, gate):
    study, store = rank_study(ranks=(4,), seeds=1), Store(tmp_path / "here")
    plan = planned(study, store)
    fill(plan, store, leave_out={plan.of_stage("student")[0].name})
    tracker = Tracker(study, store)
    tracker.sync(plan)
    assert tracker.close() is None
    store.root.rename(tmp_path / "there")
    moved = Store(tmp_path / "there")
    fill(plan, moved)
    tracker = Tracker(study, moved)
    tracker.sync(plan)
    assert tracker.close() is None
    assert_all_is_there_once(gate, plan, moved)


def test_credentials_are_mlflows_and_are_never_shown(tmp_path, gate, monkeypatch):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), seeds=1))
    gate.authorization = "Basic " + base64.b64encode(b"ann:secret").decode()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://bob:wrong-secret@{gate.address}")
    tracker = Tracker(study, store, tell=lambda line: None)
    tracker.sync(plan)
    problem = tracker.close()
    assert problem is not None
    assert problem.startswith(f"MLflow: {gate.uri} refuses: ")
    assert "secret" not in problem
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    refused = gate.refused
    tracker = Tracker(study, store)
    tracker.sync(plan)
    assert tracker.close() is None
    assert gate.refused == refused > 0
    assert_all_is_there_once(gate, plan, store)
