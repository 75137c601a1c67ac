"""The best point of a search as a study of its own: a file that `sweep` takes.

    python -m orchestrator sweep runs/reports/lora_search/best.py

It compares the settings that were found with the usual ones on seeds that have chosen neither, and has a verdict: of
many points the best one is partly lucky. On the search's own seeds its runs are those of the search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pprint import pformat
from typing import Any

import trainables
from orchestrator.errors import UserError
from orchestrator.search.points import Point
from orchestrator.space import Search, Values
from orchestrator.study import Axis, By, Comparison, Computed, Origin, Selected, Stage, Study
from orchestrator.study import Point as Place
from orchestrator.values import value_at
from search_spaces.scales import Scale

ARM = "settings"
"""The axis that is compared: usual, best."""

FILE = '''"""{title}

Written by the report of {name} at scale {scale}, from point {number} of {count}: {outcome}.
"""

from orchestrator.search.best import confirmation
from orchestrator.study import Study
from search_spaces.scales import Scale

DEFAULT_SCALE = {scale!r}
SEARCH = {origin}
POINTS = {points}


def build(scale: Scale) -> Study:
    """Return the comparison, on seeds that have chosen neither."""
    return confirmation(SEARCH, POINTS, scale)
'''


def file_of(study: Study, best: Point, usual: Point | None, *, count: int) -> str:
    """Return the text of the file; `usual` is the point of the usual settings, if the search has tried them."""
    assert study.search is not None
    assert study.origin is not None
    points = {"best": dict(best.at)}
    if usual is not None and usual.number != best.number:
        points = {"usual": dict(usual.at), **points}
    metric = study.search.objectives[0].metric.replace("_", " ")
    compared = " beat the usual ones on seeds that have chosen neither" if len(points) > 1 else " hold on fresh seeds"
    return FILE.format(
        title=f"Do the best settings of {study.name}{compared}?",
        name=study.name,
        scale=study.scale,
        number=best.number,
        count=count,
        outcome=f"{metric} {best.values[0]:.4g}, the mean over its seeds",
        origin=pformat(asdict(study.origin), sort_dicts=False, width=100),
        points=pformat(points, sort_dicts=False, width=100),
    )


def confirmation(search: Mapping[str, Any], points: Mapping[str, Values], scale: Scale) -> Study:
    """Return the study that compares points of a search; `search` is its `Origin`, of a study of this scale."""
    from orchestrator.changes import Changes
    from orchestrator.studies import load

    origin = Origin(**search)
    changes = Changes(tuple(origin.settings), tuple(origin.axes), (), origin.teacher, scale.name)
    found = load(origin.study, changes)
    if found.search is None:
        raise UserError(f"{origin.study} is no search any more")
    own = _own_settings(found, points)
    stages = {name: _fixed(name, stage, own.get(name, {}), points) for name, stage in found.stages.items()}
    return Study(
        name=f"{found.name}_best",
        description=f"Do the best settings of {found.name} beat the usual ones on seeds that have chosen neither?",
        stages=stages,
        axes={ARM: tuple(points), **found.axes, found.replicate: fresh(found, scale.seeds)},
        comparison=_comparison(found.search, scale) if "usual" in points else None,
        scale=found.scale,
        shape=found.shape,
        notes=found.notes,
    )


def _comparison(search: Search, scale: Scale) -> Comparison:
    """Return the comparison in what the search was judged by, where its test is a measurement of an evaluation."""
    first = search.objectives[0]
    if not first.metric.startswith("test_") or first.metric == "test_loss":
        return Comparison(ARM, "usual", None, margin=scale.margin)
    return Comparison(ARM, "usual", None, metric=first.metric, higher_is_better=first.higher_is_better)


def fresh(study: Study, count: int) -> tuple[int, ...]:
    """Return as many values of the replicate axis, from the first whole number after those of the search."""
    used = [value for value in study.axes.get(study.replicate, ()) if isinstance(value, int)]
    first = max(used, default=0) + 1
    return tuple(range(first, first + count))


def _own_settings(study: Study, points: Mapping[str, Values]) -> dict[str, dict[str, By]]:
    """Return by stage the settings that are axes of the search themselves, and what each arm has there."""
    assert study.search is not None
    found: dict[str, dict[str, By]] = {}
    for axis in study.search.space:
        stage, dot, setting = axis.partition(".")
        given = {arm: values[axis] for arm, values in points.items() if axis in values}
        if dot and given:
            found.setdefault(stage, {})[setting] = By(ARM, given, otherwise=_usual(study, stage, setting, points))
    return found


def _usual(study: Study, stage: str, setting: str, points: Mapping[str, Values]) -> Any:
    """Return what a setting is in an arm whose point leaves it out: the study's own value, else the default."""
    config = study.stages[stage].config
    if setting in config:
        return _follow(config[setting], points, f"{stage}.{setting}")
    field = trainables.find(study.stages[stage].trainable).config.model_fields[setting]
    return ... if field.is_required() else field.get_default(call_default_factory=True)


def _fixed(name: str, stage: Stage, own: Mapping[str, By], points: Mapping[str, Values]) -> Stage:
    """Return a stage whose settings follow the arm where they followed what was searched."""
    config = {key: _follow(value, points, f"{name}.{key}") for key, value in stage.config.items()}
    inputs = {role: _follow(source, points, f"{name}.{role}") for role, source in stage.inputs.items()}
    return replace(stage, config={**config, **own}, inputs=inputs)


def _follow(value: Any, points: Mapping[str, Values], setting: str) -> Any:
    """Return a value of the study that reads the arm's name where it read an axis of the search."""
    searched = {axis for values in points.values() for axis in values}
    if isinstance(value, Axis | Computed):
        axes = {value.name} if isinstance(value, Axis) else set(value.axes)
        if axes & searched:
            return By(ARM, {arm: value_at(value, values, setting) for arm, values in points.items()})
        return value
    if isinstance(value, Selected):
        return replace(value, grid=_follow(value.grid, points, setting))
    if not isinstance(value, By):
        return value
    table = {key: _follow(chosen, points, setting) for key, chosen in value.table.items()}
    otherwise = value.otherwise if value.otherwise is ... else _follow(value.otherwise, points, setting)
    if value.axis not in searched:
        return By(value.axis, table, otherwise=otherwise)
    arms: dict[str, Place] = dict(points)
    return By(ARM, {arm: table.get(values.get(value.axis, ...), otherwise) for arm, values in arms.items()})
