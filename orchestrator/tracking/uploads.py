"""What MLflow is told of the study as a whole, once its runs are there: all that a reader clicks on.

On the experiment: saved views and a description that leads to them. On the parent run: report, tables, figures. On the
children: what was measured on them by others (a student's test loss is its evaluation's), sample answers as a table,
datasets and models as inputs. Telling twice changes nothing; what has been told is known from tags.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.plan import Plan, Run
from orchestrator.record import Record
from orchestrator.results import test_metrics
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.tracking.content import ms, summary_points
from orchestrator.tracking.current import report_state
from orchestrator.tracking.lineage import tell_inputs
from orchestrator.tracking.saved_views import page, saved_views

ANSWERS = "answers.json"
SIDE_BY_SIDE = ("prompt", "given")
"""The first columns of answers: where runs are put side by side, MLflow has a row per first and compares the second."""
TABLES = ("comparison", "results", "items")
"""Files of the report that are tables."""
LONGEST_NOTE = 7000
"""Characters; MLflow cuts a tag at 8000."""
LOGGED_TABLES = "mlflow.loggedArtifacts"
"""The tag by which MLflow's pages know which JSON files are tables."""


def tell_study(
    client: Any, plan: Plan, store: Store, *, parent: str, children: Mapping[str, Any], report: Path | None
) -> None:
    """Tell all of it; `children` are MLflow's runs by our run ids, `parent` is the id of the study's run."""
    records = store.records(run.id for run in plan.runs)
    tell_page(client, plan.study, str(client.get_run(parent).info.experiment_id))
    tell_outcomes(client, store, plan, records, children)
    tell_inputs(client, store, plan, records, children)
    if report is not None:
        upload_report(client, plan.study, parent, report)


def tell_page(client: Any, study: Study, experiment_id: str) -> None:
    """Give the experiment its kind, its description and its saved views."""
    views = saved_views(study)
    links = [
        f"[{json.loads(view)['name']}]({page(experiment_id, key.rpartition('.')[2])})" for key, view in views.items()
    ]
    tags = {
        "mlflow.experimentKind": "custom_model_development",  # else the page asks what kind of experiment it is
        "mlflow.note.content": f"{study.description}\n\n{' · '.join(sorted(links))}",
        **views,
    }
    known = client.get_experiment(experiment_id).tags
    for name, value in tags.items():
        if known.get(name) != value:
            client.set_experiment_tag(experiment_id, name, value)


def tell_outcomes(
    client: Any, store: Store, plan: Plan, records: Mapping[str, Record], children: Mapping[str, Any]
) -> None:
    """Give every tested run its test metrics, and a table of what it answered; tag `tested`."""
    evaluations = {run.inputs["subject"]: run for run in plan.runs if "subject" in run.inputs}
    for run_id, metrics in test_metrics(plan, records).items():
        evaluation = evaluations[run_id]
        told = _digest([evaluation.id, metrics, records[evaluation.id].provenance.finished])
        if run_id not in children or children[run_id].data.tags.get("tested") == told:
            continue
        tags = {"tested": told, "evaluation": evaluation.id}
        if _log_answers(client, children[run_id].info.run_id, store, evaluation):
            tags[LOGGED_TABLES] = json.dumps([{"path": ANSWERS, "type": "table"}])
        time_ms = max(ms(records[evaluation.id].provenance.finished), _free_ms(client, children[run_id], metrics))
        _log(client, children[run_id].info.run_id, metrics, time_ms, tags)


def _free_ms(client: Any, child: Any, names: Iterable[str]) -> int:
    """Return a time after what another evaluation has said of a run: of several values MLflow shows the latest."""
    if "tested" not in child.data.tags:
        return 0
    known = [name for name in names if name in child.data.metrics]
    said = (point for name in known for point in client.get_metric_history(child.info.run_id, name))
    return 1 + max((point.timestamp for point in said), default=0)


def _log(client: Any, run_id: str, metrics: Mapping[str, Any], time_ms: int, tags: Mapping[str, str]) -> None:
    from mlflow.entities import Metric, RunTag

    points = [Metric(*point) for point in summary_points(metrics, time_ms)]
    client.log_batch(run_id, metrics=points, tags=[RunTag(name, value) for name, value in tags.items()])


def _log_answers(client: Any, run_id: str, store: Store, evaluation: Run) -> bool:
    """Log an evaluation's answers as a table: question, given and right answer, whether it is right."""
    try:
        lines = (store.artefact(evaluation.id) / "answers.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return False
    answers = [json.loads(line) for line in lines]
    names = list(dict.fromkeys([*SIDE_BY_SIDE, *(name for answer in answers for name in answer)]))
    _log_table(client, run_id, ANSWERS, names, [[answer.get(name) for name in names] for answer in answers])
    return bool(answers)


def upload_report(client: Any, study: Study, parent: str, report: Path) -> None:
    """Put report, tables and figures on the parent run if they have changed; the links to artefacts stay behind."""
    state = report_state(report)
    if client.get_run(parent).data.tags.get("report") == state:
        return
    tables = [name for name in TABLES if (report / f"{name}.csv").is_file()]
    for name in tables:
        with (report / f"{name}.csv").open(newline="") as stream:
            header, *rows = csv.reader(stream)
        _log_table(client, parent, f"tables/{name}.json", header, rows)
    for path in sorted(path for path in report.glob("*") if path.is_file() and path.name != "state.json"):
        client.log_artifact(parent, str(path))
    for path in sorted(path for path in (report / "figures").glob("*") if path.is_file()):
        client.log_artifact(parent, str(path), artifact_path="figures")
    client.set_tag(
        parent, LOGGED_TABLES, json.dumps([{"path": f"tables/{name}.json", "type": "table"} for name in tables])
    )
    client.set_tag(parent, "mlflow.note.content", _summary(study, report))
    client.set_tag(parent, "report", state)


def _summary(study: Study, report: Path) -> str:
    """Return the description of the study's run: its question, and the comparison where it is short enough."""
    try:
        comparison = (report / "comparison.md").read_text()
    except FileNotFoundError:
        comparison = ""
    return f"{study.description}\n\n{comparison if len(comparison) < LONGEST_NOTE else ''}".strip()


def _log_table(client: Any, run_id: str, path: str, names: list[str], rows: list[list[Any]]) -> None:
    """Log a table in the form of `mlflow.log_table`, which would append to what the last report left."""
    client.log_dict(run_id, {"columns": names, "data": rows}, path)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]
