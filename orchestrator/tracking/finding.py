"""What is there already: a study's experiment, its parent run and its children, found by their tags.

A request that was sent may have been carried out although its answer was lost, or be carried out late: so whatever
is found twice is made one again. The one that is kept has what the records say, or else is the oldest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.study import Study
from orchestrator.tracking.content import source_tags, study_name, study_tags


def find_experiment(client: Any, name: str, artifacts: str | None) -> str:
    """Return the id of the experiment of that name; made where there is none, `artifacts` being its folder."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=artifacts))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def find_parent(client: Any, experiment: str, study: Study, owner: Mapping[str, str]) -> str:
    """Return the id of the study's run, which `owner` keeps apart from that of another store; made if need be."""
    tags = {**study_tags(study), **owner}
    condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = sorted(_search(client, experiment, condition), key=_age)
    for doubled in found[1:]:
        if not _children(client, experiment, doubled.info.run_id):
            client.delete_run(doubled.info.run_id)
    if found:
        return str(found[0].info.run_id)
    tags |= {"mlflow.note.content": study.description, **source_tags()}
    return str(client.create_run(experiment, tags=tags, run_name=study_name(study)).info.run_id)


def find_children(client: Any, experiment: str, parent: str) -> dict[str, Any]:
    """Return MLflow's run of every run id below `parent`, and delete those that are there once more."""
    kept: dict[str, Any] = {}
    for run in sorted(
        _children(client, experiment, parent), key=lambda run: (not run.data.tags.get("record"), *_age(run))
    ):
        if kept.setdefault(run.data.tags["run_id"], run) is not run:
            client.delete_run(run.info.run_id)
    return kept


def _children(client: Any, experiment: str, parent: str) -> list[Any]:
    found = _search(client, experiment, f"tags.`mlflow.parentRunId` = '{parent}'")
    return [run for run in found if "run_id" in run.data.tags]


def _age(run: Any) -> tuple[int, str]:
    return run.info.start_time, run.info.run_id


def _search(client: Any, experiment: str, condition: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], condition, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
