"""What a study's experiment page shows: MLflow's saved views, made from the study's axes.

Out of the box MLflow lists runs without a single param or metric. A saved view (the button "Views") presets columns,
filter, order, groups and charts; it is an experiment's tag `mlflow.sharedViewState.KEY`, and a page is opened on it by
`?viewStateShareKey=KEY`. Format: MLflow 3.17, mlflow/server/js/src/experiment-tracking/utils/savedViews.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from orchestrator.results import axis_columns
from orchestrator.study import By, Computed, Selected, Study, setting_of
from orchestrator.tracking.content import HEADLINE

PREFIX = "mlflow.sharedViewState."
MAIN = "runs"
"""The view that a study's page is opened on."""
CREATED_MS = 0
"""A constant: the same study has the same views whenever it is told."""
BY_TIME = "attributes.start_time"
NARROW_PX = 84
Kind = Literal["params", "metrics", "tags", "attributes"]


def saved_views(study: Study) -> dict[str, str]:
    """Return the experiment's tags that are its saved views; a study without a comparison has the list of runs only."""
    views = {MAIN: ("1 Compared runs", _compared(study)), "all": ("4 Every run, by stage", _everything(study))}
    if study.comparison is not None:
        views["means"] = ("2 Arms, mean over replicates", _means(study))
    if _selected(study):
        views["tuning"] = (
            "3 Learning rates tried" if _selected(study) == ["learning_rate"] else "3 Tuning runs",
            _tuning(study),
        )
    return {f"{PREFIX}{key}": _envelope(name, state) for key, (name, state) in views.items()}


def page(experiment_id: str, view: str = MAIN) -> str:
    """Return the address of an experiment's view, relative to the server's."""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={view}"


def _envelope(name: str, state: Mapping[str, Any]) -> str:
    return json.dumps({"name": name, "createdAt": CREATED_MS, "updatedAt": CREATED_MS, "state": json.dumps(state)})


# -- views ----------------------------------------------------------------------------------------------


def _compared(study: Study) -> dict[str, Any]:
    stage = study.compared_stage
    condition = f"tags.stage = '{stage}' and tags.purpose = 'verdict'" if stage in study.stages else ""
    columns = [*_columns("params", compared_params(study)), *_columns("metrics", headline(study))]
    return _state(condition, columns, study, order=f"metrics.`{headline(study)[0]}`")


def _means(study: Study) -> dict[str, Any]:
    groups = [
        name for name in compared_params(study) if name not in _replicates(study) and name not in _selected(study)
    ]
    keys = [{"mode": "param", "groupByData": name} for name in groups]
    return {**_compared(study), "groupBy": {"aggregateFunction": "average", "groupByKeys": keys}}


def _tuning(study: Study) -> dict[str, Any]:
    columns = [
        *_columns("params", compared_params(study)),
        *_columns("metrics", ["final_eval_loss", "initial_eval_loss"]),
    ]
    return _state("tags.purpose = 'tuning'", columns, study)


def _everything(study: Study) -> dict[str, Any]:
    columns = [
        *_columns("tags", ["stage", "status"]),
        *_columns("attributes", ["Duration", "Dataset"]),
        *_columns("params", compared_params(study)),
        *_columns("metrics", headline(study)),
    ]
    return _state("", columns, study)


def _state(condition: str, columns: Sequence[str], study: Study, *, order: str = BY_TIME) -> dict[str, Any]:
    """Return a view. Rows by time, newest first, are nested under their parent, closed; others are a plain list."""
    higher = study.comparison is not None and study.comparison.higher_is_better
    return {
        "searchFilter": condition,
        "orderByKey": order,
        "orderByAsc": order != BY_TIME and not higher,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*columns],
        "columnOrder": [*columns],
        "columnWidths": {name: NARROW_PX for name in columns if name.startswith("params")},
        "runsHiddenMode": "SHOW_ALL",
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "compareRunCharts": _charts(study),
        "compareRunSections": [
            {"uuid": key, "name": name, "display": key == "comparison", "isReordered": False, "deleted": False}
            for key, name in {"comparison": study.name, "others": "Model metrics", "system": "System metrics"}.items()
        ],
    }


# -- columns --------------------------------------------------------------------------------------------


def compared_params(study: Study) -> list[str]:
    """Return the params that tell compared runs apart: axes, then what depends on them, replicates last."""
    columns, comparison = axis_columns(study), study.comparison
    first = [comparison.by, comparison.arm] if comparison else []
    axes = [axis for axis in dict.fromkeys([*first, *study.axes]) if axis and axis in study.axes]
    names = [columns[axis] for axis in axes]
    return [*(name for name in names if name not in _replicates(study)), *_dependent(study), *_replicates(study)]


def _replicates(study: Study) -> list[str]:
    columns = axis_columns(study)
    return [columns[axis] for axis in study.axes if study.is_replicate(axis)]


def _dependent(study: Study) -> list[str]:
    """Return the compared stage's settings that differ from run to run without being axes."""
    stage = study.stages.get(study.compared_stage)
    axes = set(axis_columns(study).values()) | {setting_of(axis) for axis in study.axes}
    config = stage.config if stage else {}
    told = [name for name in HEADLINE if name in config and name not in axes]
    return [name for name in told if isinstance(config[name], Selected | By | Computed)]


def _selected(study: Study) -> list[str]:
    stage = study.stages.get(study.compared_stage)
    return [name for name, value in (stage.config if stage else {}).items() if isinstance(value, Selected)]


def headline(study: Study) -> list[str]:
    """Return the metrics that are columns: the study's outcome first."""
    outcome = study.comparison.metric if study.comparison else "test_loss"
    return [*dict.fromkeys([outcome, "test_accuracy", "final_eval_loss", "best_eval_loss"])]


def _columns(kind: Kind, names: Sequence[str]) -> list[str]:
    return [f"{kind}.`{name}`" for name in names]


# -- charts ---------------------------------------------------------------------------------------------


def _charts(study: Study) -> list[dict[str, Any]]:
    """Return the charts: curves, the outcome by run, and parallel coordinates from what varies to what came of it."""
    outcome, params = headline(study)[0], [name for name in compared_params(study) if name not in _replicates(study)]
    return [
        _line("eval_loss", "Held-out loss by training step"),
        _line("loss", "Training loss by training step"),
        _bar(outcome, f"{outcome}, by run"),
        _card(
            "PARALLEL", "From settings to outcome", selectedParams=params, selectedMetrics=[outcome], showAllRuns=True
        ),
    ]


def _card(kind: str, name: str, **values: Any) -> dict[str, Any]:
    about = {"uuid": name, "type": kind, "displayName": name, "metricSectionId": "comparison"}
    return {**about, "runsCountToCompare": 100, "deleted": False, "isGenerated": False, **values}


def _line(metric: str, name: str) -> dict[str, Any]:
    look = {"lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear", "range": {}, "xAxisKey": "step"}
    on_steps = {"selectedXAxisMetricKey": "", "yAxisKey": "metric", "yAxisExpressions": [], "useGlobalXaxisKey": False}
    return _card("LINE", name, metricKey=metric, selectedMetricKeys=[metric], ignoreOutliers=False, **look, **on_steps)


def _bar(metric: str, name: str) -> dict[str, Any]:
    return _card("BAR", name, metricKey=metric, selectedMetricKeys=[metric])
