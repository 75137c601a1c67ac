"""What a study's values come to at one point of its axes, and which stages its inputs name there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import UnknownName, UserError
from orchestrator.study import Axis, By, Collected, Computed, Point, Stage, Study
from trainables.base import Config, Trainable


class NotGiven(UserError):
    """A table has no value for one of an axis; a setting can be given with --set."""

    def __init__(self, message: str, setting: str) -> None:
        """Say what is missing, and the way out."""
        super().__init__(f"{message}; --set {setting}=VALUE")
        self.message, self.setting = message, setting

    def __reduce__(self) -> tuple[type[NotGiven], tuple[str, str]]:
        return type(self), (self.message, self.setting)


class Reads(dict[str, Any]):
    """A point that remembers which of its axes were read: those are the run's labels."""

    def __init__(self, point: Point) -> None:
        """Take the point."""
        super().__init__(point)
        self.axes: set[str] = set()

    def __getitem__(self, axis: str) -> Any:
        """Return an axis' value, and remember that it was asked for."""
        self.axes.add(axis)
        return super().__getitem__(axis)


def value_at(value: Any, point: Point, setting: str) -> Any:
    """Return what a value of a study is at a point; `setting` names it in errors."""
    if isinstance(value, Axis):
        if value.name not in point:
            raise UnknownName(f"{setting} follows the axis {value.name!r}, which the study has not", point, value.name)
        return point[value.name]
    if isinstance(value, By):
        key = value_at(Axis(value.axis), point, setting)
        chosen = value.table.get(key, value.otherwise)
        if chosen is ...:
            known = ", ".join(map(str, value.table))
            raise NotGiven(f"{setting} is not given for {value.axis}={key} (only for {known})", setting)
        return value_at(chosen, point, setting)
    if isinstance(value, Computed):
        return value.function(*(value_at(Axis(axis), point, setting) for axis in value.axes))
    return value


def follows(value: Any, axis: str) -> bool:
    """Say whether a value of a study is made from this axis."""
    if isinstance(value, By):
        return value.axis == axis
    return isinstance(value, Computed) and axis in value.axes


def validated(stage: str, trainable: Trainable, values: Mapping[str, Any]) -> Config:
    """Return the typed config; a value that does not fit is a UserError naming stage, setting and value."""
    try:
        return trainable.config.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(str(part) for part in first["loc"]) or "config"
        reason = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise UserError(f"{stage}: {reason}") from None
        raise UserError(f"{stage}.{setting}={first['input']}: {reason[0].lower()}{reason[1:]}") from None


class Wiring:
    """Which stage reads from which, in an order in which each comes after all that it may read from."""

    def __init__(self, study: Study) -> None:
        """Look at the inputs of every stage; raises UserError where stages need each other in a circle."""
        self.stages = study.stages
        self.order = list(_dependency_order(study))
        self.alternatives = {
            f"{name}.{role}": source
            for name, stage in study.stages.items()
            for role, source in stage.inputs.items()
            if isinstance(source, tuple)
        }
        self.choices: dict[str, tuple[str, ...]] = {}
        for name in self.order:
            own = [axis for axis in self.alternatives if axis.rpartition(".")[0] == name]
            read = [axis for source in self.order if source in sources(study.stages[name]) for axis in self[source]]
            self.choices[name] = tuple(dict.fromkeys([*read, *own]))

    def __getitem__(self, name: str) -> tuple[str, ...]:
        return self.choices[name]

    def at(self, name: str, point: Point) -> Iterator[dict[str, Any]]:
        """Yield the point with one choice for each input of several alternatives, of the stage and what it reads."""
        free = [axis for axis in self[name] if axis not in point]
        for combination in itertools.product(*(self.alternatives[axis] for axis in free)):
            yield {**point, **dict(zip(free, combination, strict=True))}

    def key(self, name: str, point: Point) -> tuple[Any, ...]:
        """Return what tells the runs of one stage apart that are made at one point."""
        return (name, *(point[axis] for axis in self[name]))

    def needed(self, name: str) -> list[str]:
        """Return the stage and all that it may read from, in order."""
        keep = {name}
        for other in reversed(self.order):
            if other in keep:
                keep |= sources(self.stages[other])
        return [other for other in self.order if other in keep]


def source_at(name: str, stage: Stage, role: str, point: Point) -> str | Collected:
    """Return the stage that fills a role at a point, or what is collected; UserError where the study gives none."""
    source = stage.inputs.get(role)
    try:
        chosen = point[f"{name}.{role}"] if isinstance(source, tuple) else value_at(source, point, f"{name}.{role}")
    except NotGiven as error:
        raise UserError(f"{error.message}; name its stage in the study") from None
    if chosen is None:
        raise UserError(f"{name} needs an input {role!r} and the study gives it none")
    return chosen if isinstance(chosen, Collected) else str(chosen)


def sources(stage: Stage) -> set[str]:
    """Return every stage that this one reads from at some point."""
    return {source for value in stage.inputs.values() for source in _named(value)}


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, By):
        for chosen in (*value.table.values(), *([] if value.otherwise is ... else [value.otherwise])):
            if isinstance(chosen, tuple):
                raise UserError(f"an input that depends on {value.axis} is one stage for each value, not {chosen}")
            yield from _named(chosen)
    elif isinstance(value, Collected):
        yield value.stage
    elif isinstance(value, tuple):
        yield from value
    elif value is not None:
        yield value


def _dependency_order(study: Study) -> Iterator[str]:
    done: set[str] = set()
    waiting = dict(study.stages)
    while waiting:
        ready = [name for name, stage in waiting.items() if sources(stage) <= done]
        if not ready:
            raise UserError(f"the stages {', '.join(waiting)} need each other in a circle")
        for name in ready:
            done.add(name)
            del waiting[name]
            yield name
