"""From a study to the runs it needs.

Planning is pure: it expands the axes, gives every run its digest and merges the runs that several points
share, so that one teacher serves all the students that start from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

import trainables
from orchestrator.errors import UnknownName, UserError
from orchestrator.identity import canonical, run_id
from orchestrator.study import Axis, By, Computed, Point, Stage, Study
from trainables.base import Config, Place, Planner, Scalar, Trainable


@dataclass(frozen=True)
class Run:
    """One execution of one stage.

    `inputs` maps roles to run ids; `labels` holds the axis values that all the points sharing this run agree
    on; `name` is for people ("svd r16 s2"), `id` for machines.
    """

    id: str
    stage: str
    trainable: str
    version: int
    config: Config
    inputs: Mapping[str, str]
    place: Place
    name: str = ""
    labels: Mapping[str, Scalar] = field(default_factory=dict)
    cost_s: float = 1.0

    def find_trainable(self) -> Trainable:
        """Return the trainable that this run executes."""
        return trainables.find(self.trainable)


@dataclass(frozen=True)
class Plan:
    """The runs of a study, in dependency order."""

    study: Study
    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {run.id: run for run in self.runs})

    def __getitem__(self, run_id: str) -> Run:
        return self._by_id[run_id]  # type: ignore[attr-defined, no-any-return]

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._by_id  # type: ignore[attr-defined]

    def of_stage(self, stage: str) -> list[Run]:
        """Return the runs of one stage, in plan order."""
        return [run for run in self.runs if run.stage == stage]

    def until(self, stage: str) -> Plan:
        """Return the plan without what comes after `stage`: its runs and all that they need."""
        if stage not in self.study.stages:
            raise UnknownName(f"no stage named {stage!r}", self.study.stages, stage, "Stages")
        keep = {run.id for run in self.of_stage(stage)}
        for run in reversed(self.runs):
            if run.id in keep:
                keep |= set(run.inputs.values())
        return Plan(self.study, tuple(run for run in self.runs if run.id in keep))

    def dependants(self, ids: Iterable[str]) -> set[str]:
        """Return the ids of all runs that need one of `ids`, directly or through others."""
        lost = set(ids)
        for run in self.runs:
            if lost & set(run.inputs.values()):
                lost.add(run.id)
        return lost - set(ids)


def expand(study: Study, planner: Planner) -> Plan:
    """Return the study's runs in dependency order, shared runs merged; raises UserError for what does not fit."""
    check_names(study)
    return _Expansion(study, planner).plan()


def check_names(study: Study) -> None:
    """Raise UserError where a stage, role, setting or axis of the study names something that is not there."""
    for name, stage in study.stages.items():
        trainable = trainables.find(stage.trainable)
        for setting in stage.config:
            check_setting(name, trainable, setting)
        for role in stage.inputs:
            if role not in trainable.roles:
                raise UnknownName(f"{name} has no input {role!r}", trainable.roles, role, "Inputs")
        for source in _sources(stage) - set(study.stages):
            raise UnknownName(f"{name} reads from {source!r}, which is no stage", study.stages, source)
    for axis, values in study.axes.items():
        check_axis(study, axis, values)


def check_axis(study: Study, axis: str, values: tuple[Scalar, ...]) -> None:
    """Raise UserError if an axis varies no setting of the study, has no values, or one of them twice."""
    stage, _, setting = axis.partition(".")
    if stage not in study.stages:
        raise UnknownName(f"axis {axis!r}: no stage named {stage!r}", study.stages, stage, "Stages")
    check_setting(stage, trainables.find(study.stages[stage].trainable), setting)
    if not values:
        raise UserError(f"axis {axis!r} has no values; give it some, or take it out")
    if len(set(values)) < len(values):
        raise UserError(f"axis {axis!r} names a value twice: {', '.join(map(str, values))}")


def check_setting(stage: str, trainable: Trainable, setting: str) -> None:
    """Raise UnknownName if the stage's config has no such setting."""
    if setting not in trainable.config.model_fields:
        raise UnknownName(f"{stage} has no setting {setting!r}", trainable.config.model_fields, setting, "Settings")


class _Expansion:
    """Expands every point of a study; holds what the points share."""

    def __init__(self, study: Study, planner: Planner) -> None:
        self.study, self.planner = study, planner
        self.runs: dict[str, Run] = {}
        self.labels: dict[str, dict[str, Any]] = {}
        self.pinned: dict[bytes, Config] = {}

    def plan(self) -> Plan:
        order = list(_dependency_order(self.study))
        for values in itertools.product(*self.study.axes.values()):
            point = dict(zip(self.study.axes, values, strict=True))
            seen: dict[str, Run] = {}
            for name in order:
                for choice in _choices(name, self.study.stages[name]):
                    seen[name] = self.resolve(name, {**point, **choice}, seen)
        runs = [replace(run, labels=self.labels[run.id]) for run in self.runs.values()]
        runs = [replace(run, name=_readable(run)) for run in runs]
        position = {name: index for index, name in enumerate(order)}
        return Plan(self.study, tuple(sorted(runs, key=lambda run: position[run.stage])))

    def resolve(self, name: str, point: Point, seen: Mapping[str, Run]) -> Run:
        """Return the run of one stage at one point; `seen` holds this point's earlier runs by stage."""
        stage, read = self.study.stages[name], _Reads(point)
        trainable = trainables.find(stage.trainable)
        config = self.config(name, stage, trainable, read)
        inputs: dict[str, str] = {}
        labels: dict[str, Any] = {}
        for role in trainable.needed_roles(config):
            if role not in stage.inputs:
                raise UserError(f"{name} needs an input {role!r} and the study gives it none")
            source = stage.inputs[role]
            if isinstance(source, tuple):
                source = read[f"{name}.{role}"]
            inputs[role] = seen[source].id
            labels |= self.labels[seen[source].id]
        labels |= {axis: point[axis] for axis in read.axes}
        labels = {axis: labels[axis] for axis in point if axis in labels}
        identity = run_id(name, stage.trainable, trainable.version, config.identity(), inputs)
        known = self.labels.get(identity, labels)
        self.labels[identity] = {axis: value for axis, value in known.items() if labels.get(axis, ...) == value}
        if identity not in self.runs:
            cost_s = trainable.cost_s(config)
            version = trainable.version
            self.runs[identity] = Run(
                identity, name, stage.trainable, version, config, inputs, stage.place, cost_s=cost_s
            )
        return self.runs[identity]

    def config(self, name: str, stage: Stage, trainable: Trainable, point: _Reads) -> Config:
        """Return the typed and pinned config of one stage at one point."""
        own = {axis.partition(".")[2]: Axis(axis) for axis in self.study.axes if axis.partition(".")[0] == name}
        values = {key: _value(value, point, f"{name}.{key}") for key, value in {**stage.config, **own}.items()}
        key = canonical([name, {setting: repr(value) for setting, value in values.items()}])
        if key not in self.pinned:
            self.pinned[key] = trainable.pin(validated(name, trainable, values), self.planner)
        return self.pinned[key]


class _Reads(dict[str, Any]):
    """A point that remembers which of its axes were read: those are the run's labels."""

    def __init__(self, point: Point) -> None:
        super().__init__(point)
        self.axes: set[str] = set()

    def __getitem__(self, axis: str) -> Any:
        self.axes.add(axis)
        return super().__getitem__(axis)


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


def _value(value: Any, point: Point, setting: str) -> Any:
    if isinstance(value, Axis):
        if value.name not in point:
            raise UnknownName(f"{setting} follows the axis {value.name!r}, which the study has not", point, value.name)
        return point[value.name]
    if isinstance(value, By):
        key = _value(Axis(value.axis), point, setting)
        chosen = value.table.get(key, value.otherwise)
        if chosen is ...:
            known = ", ".join(map(str, value.table))
            raise UserError(f"{setting} is not given for {value.axis}={key} (only for {known}); --set {setting}=VALUE")
        return _value(chosen, point, setting)
    if isinstance(value, Computed):
        return value.function(*(_value(Axis(axis), point, setting) for axis in value.axes))
    return value


def _choices(name: str, stage: Stage) -> Iterator[dict[str, str]]:
    """Yield one choice of source per alternative for the inputs that have several."""
    several = {f"{name}.{role}": sources for role, sources in stage.inputs.items() if isinstance(sources, tuple)}
    for combination in itertools.product(*several.values()):
        yield dict(zip(several, combination, strict=True))


def _dependency_order(study: Study) -> Iterator[str]:
    """Yield the stages so that each comes after all it reads from; raises UserError on a cycle."""
    done: set[str] = set()
    waiting = dict(study.stages)
    while waiting:
        ready = [name for name, stage in waiting.items() if _sources(stage) <= done]
        if not ready:
            raise UserError(f"the stages {', '.join(waiting)} need each other in a circle")
        for name in ready:
            done.add(name)
            del waiting[name]
            yield name


def _sources(stage: Stage) -> set[str]:
    sources: set[str] = set()
    for value in stage.inputs.values():
        sources |= {value} if isinstance(value, str) else set(value)
    return sources


SHORT = {"rank": "r", "seed": "s", "lora_alpha": "a", "learning_rate": "lr", "fold": "f"}
"""How a number is written in a readable name: `svd r16 s2`."""


def _readable(run: Run) -> str:
    """Return the run's name for people: its stage (but for students), what it is about, then its numbers."""
    words: list[str] = []
    numbers: list[str] = []
    for axis, value in run.labels.items():
        stage, _, setting = axis.partition(".")
        if isinstance(value, int | float) and not isinstance(value, bool):
            numbers.append(f"{SHORT.get(setting, f'{setting}=')}{value:g}")
        elif stage == run.stage and setting in run.inputs:
            words.insert(0, str(value))
        else:
            words.append(str(value))
    return " ".join([*([] if run.stage == "student" else [run.stage]), *words, *numbers])
