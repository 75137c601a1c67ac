"""Applying to a study what the command line changes in it.

Every change is typed and checked against the config that it changes; a name that nothing has ends in one line
with the nearest one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

from pydantic import TypeAdapter, ValidationError

import trainables
from orchestrator.errors import UnknownName, UserError
from orchestrator.planning import check_setting
from orchestrator.space import Choice, Prune
from orchestrator.study import Axis, By, Selected, Stage, Study
from trainables.base import Place, Scalar

RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


@dataclass(frozen=True)
class Changes:
    """What the command line changes in a study: `--set`, `--axis`, `--place` and `--teacher`, as written.

    `tuning_seeds` is the number of `--tuning-seeds`; of a search also how many points it tries (`--points`) and by
    which rule it stops runs early (`--prune`).
    """

    settings: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    teacher: str | None = None
    scale: str | None = None
    tuning_seeds: int | None = None
    points: int | None = None
    prune: str | None = None


UNCHANGED = Changes()


def changed(study: Study, changes: Changes) -> Study:
    """Return the study with the changes applied, in the order teacher, axes, settings, places.

    With another base model the shape that the study knows is no longer true.
    """
    model = _model(study)
    if changes.teacher is not None:
        study = _with_teacher(study, changes.teacher)
    for text in changes.axes:
        study = _with_axis(study, text)
    for text in changes.settings:
        study = _with_setting(study, text)
    for text in changes.places:
        study = _with_place(study, text)
    if changes.tuning_seeds is not None:
        study = _with_tuning_seeds(study, changes.tuning_seeds)
    if changes.points is not None or changes.prune is not None:
        study = searched(study, changes.points, changes.prune)
    return study if _model(study) == model else replace(study, shape=None)


def _model(study: Study) -> tuple[Any, Any]:
    """Return what decides which base model a study uses."""
    stage = study.stages.get("base_model")
    return stage and stage.config.get("source"), study.axes.get("base_model.source")


def _with_teacher(study: Study, source: str) -> Study:
    """Replace the teacher's training by somebody's checkpoint: fetched and normalised as a base model is."""
    if "teacher" not in study.stages:
        raise UserError(f"--teacher: the study {study.name!r} has no teacher")
    place = study.stages["base_model"].place if "base_model" in study.stages else Place()
    stage = Stage("base_model", {"source": source, "match_base": True}, {"base_model": "base_model"}, place)
    return study.with_stage("teacher", stage)


def searched(study: Study, points: int | None, prune: str | None) -> Study:
    """Return the search with another number of points, or another rule to stop runs early."""
    search = study.search
    if search is None and prune is not None:
        raise UserError(
            f"--prune {prune}: {study.name} is a comparison, and to stop runs early by their loss favours the arm that "
            "starts lower; every run of a comparison ends. Only a search prunes, such as lora_search"
        )
    if search is None:
        raise UserError(f"--points {points}: {study.name} is a comparison, not a search; give its values with --axis")
    rule = search.prune or Prune(first=_first_rung(study))
    of_name: dict[str, Prune | None] = {
        "none": None,
        "asha": replace(rule, rule="asha"),
        "median": replace(rule, rule="median"),
    }
    kept = search.prune if prune is None else of_name[prune]
    return replace(study, search=replace(search, points=search.points if points is None else points, prune=kept))


def _first_rung(study: Study) -> int:
    """Return the first step at which the searched runs are evaluated."""
    every = study.stages[study.compared_stage].config.get("eval_every", 1)
    return every if isinstance(every, int) else 1


def _with_range(study: Study, name: str, values: Sequence[Scalar]) -> Study:
    """Return the search with one of its axes narrowed to some values, or to one."""
    assert study.search is not None
    narrowed = Choice(*values, when=study.search.space[name].when)
    return replace(study, search=replace(study.search, space={**study.search.space, name: narrowed}))


def _with_axis(study: Study, text: str) -> Study:
    option = f"--axis {text}"
    name, value = _assignment(option, text)
    values = [found for part in value.split(",") if part.strip() for found in _values(option, part)]
    if study.search is not None and name in study.search.space:
        return _with_range(study, name, _of_range(option, study, name, values))
    if name in study.axes and "." not in name:
        return study.with_axis(name, _known_values(option, study, name, values))
    stage, setting = _stage_and_setting(study, option, name)
    trainable = trainables.find(study.stages[stage].trainable)
    _explained(option, check_setting, stage, trainable, setting)
    for follower in _followers(study, stage):
        study = study.with_setting(follower, setting, Axis(name))
    return study.with_axis(name, tuple(_typed(option, stage, study, setting, value) for value in values))


def _known_values(option: str, study: Study, axis: str, wanted: Sequence[Scalar]) -> list[Scalar]:
    """Return the values of a free axis; where the study says what they mean (`By`), only those that it has."""
    settings = (value for stage in study.stages.values() for value in (*stage.config.values(), *stage.inputs.values()))
    if not any(isinstance(value, By) and value.axis == axis for value in settings):
        return list(wanted)
    known = {str(value): value for value in study.axes[axis]}
    for value in wanted:
        if str(value) not in known:
            raise UnknownName(f"{option}: {axis} has no value {str(value)!r}", known, str(value), "Values")
    return [known[str(value)] for value in wanted]


def _of_range(option: str, study: Study, name: str, values: Sequence[Scalar]) -> list[Scalar]:
    """Return values for an axis that is searched: those that its range holds."""
    assert study.search is not None
    of = study.search.space[name]
    for value in values:
        if not of.holds(value):
            raise UserError(f"{option}: {name} is searched among {of}, and {value} is none of them")
    return list(values)


def _followers(study: Study, stage: str) -> list[str]:
    return [name for name, other in study.stages.items() if other.follows == stage]


def _with_setting(study: Study, text: str) -> Study:
    option = f"--set {text}"
    for follower in _followers(study, text.partition(".")[0].strip()):
        study = _with_setting(study, f"{follower}.{text.partition('.')[2]}")
    name, value = _assignment(option, text)
    stage, setting = _stage_and_setting(study, option, name)
    setting, _, key = setting.partition(".")
    if study.search is not None and f"{stage}.{setting}" in study.search.space:
        typed = _typed(option, stage, study, setting, _literal(value))
        return _with_range(study, f"{stage}.{setting}", [typed])
    if f"{stage}.{setting}" in study.axes:
        raise UserError(f"{option}: {stage}.{setting} is an axis of {study.name}; give its values with --axis {text}")
    _explained(option, check_setting, stage, trainables.find(study.stages[stage].trainable), setting)
    new = _literal(value)
    if setting == "source" and not key:
        study = _without_settings_of_source(study, stage)
    if key:
        old = study.stages[stage].config.get(setting, {})
        if not isinstance(old, dict):
            raise UserError(f"{option}: {stage}.{setting} has no parts")
        new = {**old, key: new}
    return study.with_setting(stage, setting, _for_the_others(option, study, stage, setting, new))


def _for_the_others(option: str, study: Study, stage: str, setting: str, value: Any) -> Any:
    """Return the new value, for the arms that a free axis does not give one of their own: those keep theirs."""
    typed, current = _typed(option, stage, study, setting, value), study.stages[stage].config.get(setting)
    if not isinstance(current, By) or "." in current.axis:
        return typed
    if current.otherwise is ...:
        raise UserError(
            f"{option}: {stage}.{setting} follows {current.axis} in {study.name}; choose with --axis {current.axis}="
            f"{','.join(map(str, current.table))}"
        )
    return By(current.axis, current.table, otherwise=typed)


def _without_settings_of_source(study: Study, stage: str) -> Study:
    """Drop what the study said of the source that is being replaced: its generator, fields and sizes."""
    config = trainables.find(study.stages[stage].trainable).config
    of_source: frozenset[str] = getattr(config, "OF_SOURCE", frozenset())
    current = study.stages[stage]
    kept = {name: value for name, value in current.config.items() if name not in of_source}
    return study.with_stage(stage, replace(current, config=kept))


def _with_place(study: Study, text: str) -> Study:
    option = f"--place {text}"
    name, value = _assignment(option, text)
    stage, setting = _stage_and_setting(study, option, name)
    if setting not in Place.model_fields:
        raise UnknownName(f"{option}: no such place setting {setting!r}", Place.model_fields, setting, "Settings")
    current = study.stages[stage]
    try:
        place = Place.model_validate({**current.place.model_dump(), setting: _literal(value)})
    except ValueError:
        wanted = Place.model_fields[setting].description or str(Place.model_fields[setting].annotation)
        raise UserError(f"{option}: {value!r} does not fit {setting} ({wanted})") from None
    return study.with_stage(stage, replace(current, place=place))


def _with_tuning_seeds(study: Study, count: int) -> Study:
    """Return the study with so many tuning seeds for every setting that is selected."""
    option = f"--tuning-seeds {count}"
    if count < 1:
        raise UserError(f"{option}: a choice needs 1 or more")
    avoid = study.axes.get(study.replicate, ())
    stages = {
        name: replace(stage, config={key: _reseeded(value, count, avoid) for key, value in stage.config.items()})
        for name, stage in study.stages.items()
    }
    if not study.selected:
        raise UserError(f"{option}: {study.name} selects nothing by tuning runs")
    return replace(study, stages=stages)


def _reseeded(value: Any, count: int, avoid: Sequence[Scalar]) -> Any:
    if isinstance(value, Selected):
        return value.with_seeds(count, avoid)
    if not isinstance(value, By):
        return value
    table = {key: _reseeded(chosen, count, avoid) for key, chosen in value.table.items()}
    return By(value.axis, table, otherwise=_reseeded(value.otherwise, count, avoid))


def _typed(option: str, stage: str, study: Study, setting: str, value: Any) -> Any:
    """Return the value as the setting's own type. How it fits the other settings is seen when all are applied."""
    config = trainables.find(study.stages[stage].trainable).config
    try:
        config.model_validate({setting: value})
    except ValidationError as error:
        own = [item for item in error.errors() if item["loc"][:1] == (setting,)]
        if own:
            reason = own[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"{option}: {stage}.{setting}={value}: {reason[0].lower()}{reason[1:]}") from None
    field = config.model_fields[setting]
    adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, Annotated[field.annotation, field]))
    typed = adapter.validate_python(value)
    return typed if isinstance(typed, str | bool | int | float | None) else value


def _assignment(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise UserError(f"{option}: write it as STAGE.SETTING=VALUE, such as student.steps=40")
    return name.strip(), value.strip()


def _stage_and_setting(study: Study, option: str, name: str) -> tuple[str, str]:
    stage, dot, setting = name.partition(".")
    if stage not in study.stages:
        raise UnknownName(f"{option}: no stage named {stage!r}", study.stages, stage, "Stages")
    if not dot or not setting:
        raise UserError(f"{option}: name a setting of {stage}, such as {stage}.seed=2")
    return stage, setting


def _values(option: str, text: str) -> list[Any]:
    """Return the value of a literal, or all whole numbers of a range: 8..12 is 8, 9, 10, 11, 12."""
    if not (ends := RANGE.fullmatch(text.strip())):
        return [_literal(text)]
    first, last = map(int, ends.groups())
    if last < first:
        raise UserError(f"{option}: {text.strip()} has no values; write the smaller number first")
    return list(range(first, last + 1))


def _literal(text: str) -> Any:
    """Return the value of a JSON literal, else the text itself: 40, 1e-3, true, null, [1, 2], svd."""
    text = text.strip()
    if text in {"None", "True", "False"}:
        text = {"None": "null", "True": "true", "False": "false"}[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _explained(option: str, function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except UserError as error:
        raise UserError(f"{option}: {error}") from None
