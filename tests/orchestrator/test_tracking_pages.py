"""What MLflow's pages are given beside a run's own params and metrics: views, outcomes, tables, inputs."""

from __future__ import annotations

import json

import pytest

from orchestrator import report, results
from orchestrator.cli.ui import refuse_taken_port
from orchestrator.errors import UserError
from orchestrator.studies import load, names
from orchestrator.tracking import Tracker
from orchestrator.tracking.client import OURS, reading_client
from orchestrator.tracking.saved_views import PREFIX, compared_params, headline, saved_views
from orchestrator.tracking.server import tracked
from tests.orchestrator.synthetic import filled, rank_study


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A finished study, told twice: its plan and store, MLflow's client, parent and children by run id."""
    study, plan, store = filled(tmp_path_factory.mktemp("store"), rank_study(ranks=(4,), seeds=1))
    for run in plan.of_stage("evaluate"):
        (store.artefact(run.id) / "answers.jsonl").write_text(
            json.dumps({"prompt": "1 + 1 =", "reference": "two", "given": "three", "correct": False}) + "\n"
        )
    folder = report.report_folder(plan, store)
    report.write(plan, store, folder)
    for _ in range(2):
        tracker = Tracker(study, store)
        tracker.sync(plan, report=folder)
        assert tracker.close() is None
    client = reading_client(f"{OURS}{store.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(study.name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    children = {run.data.tags["run_id"]: run for run in runs if "run_id" in run.data.tags}
    (parent,) = [run for run in runs if run.data.tags.get("role") == "study"]
    return plan, store, client, experiment, parent, children


def student_of(told):
    plan, *_ = told
    return next(run for run in plan.of_stage("student") if run.labels["student.init"] == "svd")


def load_table(client, run, path, monkeypatch):
    """Return a table as a reader of MLflow gets it: the client looks for runs where the environment says."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    return client.load_table(run.info.experiment_id, path, [run.info.run_id])


def test_a_student_has_its_evaluations_metrics_and_answers(told, monkeypatch):
    plan, store, client, _, _, children = told
    student = student_of(told)
    outcomes = results.test_metrics(plan, store.records(run.id for run in plan.runs))[student.id]
    child = children[student.id]
    assert outcomes
    assert {name: child.data.metrics[name] for name in outcomes} == outcomes
    table = load_table(client, child, "answers.json", monkeypatch)
    assert table.to_dict("records") == [{"prompt": "1 + 1 =", "reference": "two", "given": "three", "correct": False}]


def test_inputs_are_a_dataset_and_a_base_model_that_lead_to_their_runs(told):
    plan, _, client, experiment, _, children = told
    student = student_of(told)
    inputs = client.get_run(children[student.id].info.run_id).inputs
    (dataset,), (model,) = inputs.dataset_inputs, inputs.model_inputs
    assert dataset.dataset.digest == plan[student.inputs["dataset"]].id.rpartition("-")[2]
    assert [(tag.key, tag.value) for tag in dataset.tags] == [("mlflow.data.context", "train")]
    base = client.get_logged_model(model.model_id)
    assert base.source_run_id == children[student.inputs["base_model"]].info.run_id
    assert len({made.name for made in client.search_logged_models([experiment.experiment_id])}) == len(
        client.search_logged_models([experiment.experiment_id])
    ), "told twice, made once"


def test_the_report_is_on_the_studys_run_as_page_tables_and_summary(told, monkeypatch):
    _, _, client, _, parent, _ = told
    assert "report.html" in {item.path for item in client.list_artifacts(parent.info.run_id)}
    table = load_table(client, parent, "tables/comparison.json", monkeypatch)
    assert {"random", "svd"} <= set(table["line"])
    assert "| rank | init |" in parent.data.tags["mlflow.note.content"]


def test_the_experiments_views_name_columns_that_its_runs_have(told):
    plan, store, client, experiment, _, children = told
    views = {key: json.loads(value) for key, value in experiment.tags.items() if key.startswith(PREFIX)}
    assert f"{PREFIX}runs" in views
    child = children[student_of(told).id].data
    state = json.loads(views[f"{PREFIX}runs"]["state"])
    known = {f"params.`{name}`" for name in child.params} | {f"metrics.`{name}`" for name in child.metrics}
    assert {"params.`rank`", "params.`init`", "params.`seed`", "metrics.`test_loss`"} <= set(state["selectedColumns"])
    assert {name for name in state["selectedColumns"] if name.startswith("params")} <= known
    found = client.search_runs([experiment.experiment_id], state["searchFilter"])
    assert {run.data.tags["run_id"] for run in found} == {run.id for run in plan.of_stage("student")}
    assert [(item.study, item.scale) for item in tracked(store.root / "mlflow.db")] == [("rank_study", "fake")]


@pytest.mark.parametrize("name", names())
def test_every_study_has_views_that_fit_into_a_tag_and_compare_something(name):
    study = load(name)
    views = saved_views(study)
    assert all(len(value) < 20_000 for value in views.values())
    if study.comparison is not None:
        assert headline(study)[0] == study.comparison.metric
        assert len(compared_params(study)) >= 2


def test_a_taken_port_is_refused_with_a_free_one():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} of 127\.0\.0\.1 is taken; port (\d+) is free: --port \1$"):
            refuse_taken_port(port)
    refuse_taken_port(port)
