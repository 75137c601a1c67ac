"""What a run was made of, as MLflow's inputs: the dataset with its size and digest, the models it started from.

A base model and a teacher are logged models of MLflow's (their weights stay in the store), so that a run's page leads
to the model it started from, and the model's page to the runs that used it. A run that has been told of its inputs has
the tag `inputs`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.plan import Plan, Run
from orchestrator.record import Record
from orchestrator.store import Store

MODEL_ROLES = ("base_model", "teacher")
"""Inputs that are models to start from or to learn from."""
UNSUITABLE = re.compile(r"[^\w -]")
"""What MLflow refuses in the name of a logged model."""


def tell_inputs(
    client: Any, store: Store, plan: Plan, records: Mapping[str, Record], children: Mapping[str, Any]
) -> None:
    """Log datasets and models as the inputs of those children (MLflow's runs, by run id) that lack them."""
    models = _Models(client, plan, records, children)
    for run in plan.runs:
        if run.id not in children or run.id not in records or "inputs" in children[run.id].data.tags:
            continue
        datasets = [
            _dataset(store, plan[source], records[source], "test" if "subject" in run.inputs else "train")
            for role, source in run.inputs.items()
            if role == "dataset" and source in plan and source in records
        ]
        read = [models.find(source) for role, source in run.inputs.items() if role in MODEL_ROLES and source in plan]
        _log(client, children[run.id].info.run_id, datasets, [model for model in read if model])
        client.set_tag(children[run.id].info.run_id, "inputs", " ".join(sorted(run.inputs.values())) or "none")


def _log(client: Any, run_id: str, datasets: list[Any], models: Iterable[str]) -> None:
    from mlflow.entities import LoggedModelInput

    inputs = [LoggedModelInput(model) for model in models]
    if datasets or inputs:
        client.log_inputs(run_id, datasets=datasets or None, models=inputs or None)


class _Models:
    """The logged models of a study's experiment, made when they are first asked for."""

    def __init__(self, client: Any, plan: Plan, records: Mapping[str, Record], children: Mapping[str, Any]) -> None:
        self.client, self.plan, self.records, self.children = client, plan, records, children
        self.known: dict[str, str] = {}

    def find(self, source: str) -> str | None:
        """Return the id of the logged model that a run made, or None where MLflow knows no such run."""
        if source not in self.children or source not in self.records:
            return None
        tags = self.children[source].data.tags
        if source not in self.known:
            self.known[source] = tags.get("model_id") or self._make(self.plan[source])
        return self.known[source]

    def _make(self, run: Run) -> str:
        from mlflow.entities import LoggedModelOutput

        child = self.children[run.id]
        name = UNSUITABLE.sub("-", model_name(run, self.records[run.id]))
        tags = {"stage": run.stage, "run_id": run.id}
        made = self.client.create_logged_model(child.info.experiment_id, name, child.info.run_id, tags, None, run.stage)
        self.client.finalize_logged_model(made.model_id, "READY")
        self.client.log_outputs(child.info.run_id, [LoggedModelOutput(made.model_id, 0)])
        self.client.set_tag(child.info.run_id, "model_id", made.model_id)
        return str(made.model_id)


def model_name(run: Run, record: Record) -> str:
    """Return what a model is called: a base model by its source, others by their run."""
    source = str(record.settings.get("source") or "").rstrip("/")
    return source.rpartition("/")[2] or run.name or run.id


def _dataset(store: Store, run: Run, record: Record, side: str) -> Any:
    """Return a dataset as MLflow's input; `side` is the part that was read: train or test."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = str(record.settings.get("source") or record.settings.get("kind") or run.name)
    counts = {name: value for name, value in record.metrics.items() if isinstance(value, int | float)}
    columns = [{"type": "string", "name": name, "required": True} for name in ("prompt", "completion")]
    about = Dataset(
        name=source.rpartition("/")[2],
        digest=run.id.rpartition("-")[2],
        source_type="local",
        source=json.dumps({"uri": str(store.artefact(run.id))}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": counts.get(f"{side}_items"), **counts}),
    )
    return DatasetInput(about, [InputTag("mlflow.data.context", side)])
