"""From a study, and the records there are, to the runs it needs.

Planning is pure: it expands the axes, gives every run its digest and merges the runs that several points
share, so that one teacher serves all the students that start from it. A setting that is selected is a plain number
once its tuning runs have their records; until then what depends on it is expected, and no run yet.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import trainables
from orchestrator.errors import UnknownName, UserError
from orchestrator.identity import run_id
from orchestrator.plan import Plan, Purpose, Run
from orchestrator.selection import written
from orchestrator.space import Asked, Choice
from orchestrator.study import Axis, Collected, Point, Selected, Stage, Study, setting_of
from orchestrator.tuning import Choices, Records
from orchestrator.values import Reads, Wiring, follows, source_at, sources, validated, value_at
from trainables.base import Config, Planner, Scalar, Trainable


def expand(study: Study, planner: Planner, records: Records = lambda run_id: None) -> Plan:
    """Return the study's runs in dependency order, shared runs merged; raises UserError for what does not fit."""
    return Planning(study, planner)(records)


class Planning:
    """Plans a study again and again while records come in.

    What settings point at (a file, a hub's revision) is looked up once, so that a run keeps its id while it waits.
    """

    def __init__(self, study: Study, planner: Planner, *, until: str | None = None) -> None:
        """Check the study's names; with `until`, plans leave out what comes after that stage."""
        check_names(study)
        self.study, self.planner, self.until = study, planner, until
        self.wiring = Wiring(study)
        self.pinned: dict[tuple[Any, ...], Config] = {}
        self.ids: dict[tuple[Any, ...], str] = {}

    def __call__(self, records: Records, asked: Sequence[Asked] = ()) -> Plan:
        """Return the plan as these records have it; in a search, of the points that were asked for."""
        plan = _Expansion(self, records).plan(asked)
        return plan if self.until is None else plan.until(self.until)

    def judged(self, values: Point, records: Records = lambda run_id: None) -> Plan:
        """Return the plan of one point of a search up to the runs it is judged by, whether it was asked for or not."""
        plan = _Expansion(self, records).plan([Asked(0, values)], stands_in=False)
        return plan.until(self.study.compared_stage)


def check_names(study: Study) -> None:
    """Raise UserError where a stage, role, setting or axis of the study names something that is not there."""
    for name, stage in study.stages.items():
        trainable = trainables.find(stage.trainable)
        for setting in stage.config:
            check_setting(name, trainable, setting)
        for role in stage.inputs:
            if role not in trainable.roles:
                raise UnknownName(f"{name} has no input {role!r}", trainable.roles, role, "Inputs")
        for source in sources(stage) - set(study.stages):
            raise UnknownName(f"{name} reads from {source!r}, which is no stage", study.stages, source)
    for axis, values in study.axes.items():
        check_axis(study, axis, values)
    if study.search is not None:
        for axis, of in study.search.space.items():
            check_axis(study, axis, of.values if isinstance(of, Choice) else (of.low,))


def check_axis(study: Study, axis: str, values: tuple[Scalar, ...]) -> None:
    """Raise UserError if an axis varies no setting of the study, has no values, or one of them twice.

    An axis without a dot varies none itself.
    """
    stage, dot, setting = axis.partition(".")
    if dot and stage not in study.stages:
        raise UnknownName(f"axis {axis!r}: no stage named {stage!r}", study.stages, stage, "Stages")
    if dot:
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

    def __init__(self, planning: Planning, records: Records) -> None:
        self.study, self.planner, self.wiring = planning.study, planning.planner, planning.wiring
        self.pinned, self.ids = planning.pinned, planning.ids
        self.runs: dict[str, Run] = {}
        self.open: set[str] = set()
        self.labels: dict[str, dict[str, Any]] = {}
        self.followed: dict[str, set[str]] = {}
        known: Records = lambda run_id: None if run_id in self.open else records(run_id)  # noqa: E731
        self.choices = Choices(self.study, self.tuning, self.tuning_ahead, self.labels, known)

    def plan(self, asked: Sequence[Asked], *, stands_in: bool = True) -> Plan:
        points = [replace(one, runs=self.expand(one.values)) for one in asked]
        if self.study.search is None:
            self.expand({})
        elif stands_in:
            self.look_ahead(len(points))
        position = {name: index for index, name in enumerate(self.wiring.order)}
        named = [replace(run, labels=self.labels[run.id]) for run in self.runs.values()]
        named = [replace(run, name=_readable(run)) for run in named]
        named.sort(key=lambda run: (position[run.stage], run.purpose))
        runs = tuple(run for run in named if run.id not in self.open)
        expected = tuple(run for run in named if run.id in self.open)
        plan = Plan(self.study, runs, expected, self.choices.all(), tuple(points))
        return plan if self.study.search is None else _needed(plan, self.wiring)

    def expand(self, values: Point) -> tuple[str, ...]:
        """Make all runs of one point of the searched space, or of the study; return those that are compared."""
        judged = self.wiring.needed(self.study.compared_stage) if values else []
        found = []
        for axes in itertools.product(*self.study.axes.values()):
            point = {**values, **dict(zip(self.study.axes, axes, strict=True))}
            self.walk(point, self.wiring.order, "verdict")
            found += [self.walk(point, judged, "verdict").id] if judged else []
        return tuple(found)

    def look_ahead(self, count: int) -> None:
        """Expect runs as the points of the search will have them that come after the first `count`."""
        search = self.study.search
        assert search is not None
        known = set(self.runs)
        for values in search.stand_ins(search.points)[count:]:
            self.expand(values)
        new = [run_id for run_id in self.runs if run_id not in known]
        self.open |= {run_id for run_id in new if self.followed[run_id] & search.space.keys()}

    def walk(self, point: Point, stages: Iterable[str], purpose: Purpose) -> Run:
        """Make the runs of these stages at one point, in order; return the last one."""
        seen: dict[tuple[Any, ...], Run] = {}
        for name in stages:
            for chosen in self.wiring.at(name, point):
                run = seen[self.wiring.key(name, chosen)] = self.resolve(name, chosen, seen, purpose)
        return run

    def resolve(self, name: str, point: Point, seen: Mapping[tuple[Any, ...], Run], purpose: Purpose) -> Run:
        """Return the run of one stage at one point; `seen` holds this point's earlier runs."""
        stage, read = self.study.stages[name], Reads(point)
        trainable = trainables.find(stage.trainable)
        config, is_open = self.config(name, stage, trainable, read)
        inputs: dict[str, str] = {}
        labels: dict[str, Any] = {}
        for role in trainable.needed_roles(config):
            source = source_at(name, stage, role, read)
            if isinstance(source, Collected):
                filled = self.collected(role, source, point, purpose)
            else:
                filled = {role: seen[self.wiring.key(source, point)]}
            for part, run in filled.items():
                inputs[part] = run.id
                labels |= {
                    axis: value for axis, value in self.labels[run.id].items() if not _is_collected(source, axis)
                }
                is_open = is_open or run.id in self.open
        labels |= {axis: point[axis] for axis in read.axes}
        labels = {axis: labels[axis] for axis in point if axis in labels}
        identity = self.identify(name, trainable, config, inputs)
        self.followed[identity] = read.axes.union(*(self.followed[source] for source in inputs.values()))
        known = self.labels.get(identity, labels)
        self.labels[identity] = {axis: value for axis, value in known.items() if labels.get(axis, ...) == value}
        if identity not in self.runs:
            self.open |= {identity} if is_open else set()
            about = (identity, name, stage.trainable, trainable.version, config, inputs, stage.place)
            self.runs[identity] = Run(*about, cost_s=trainable.cost_s(config), purpose=purpose)
        elif purpose == "verdict" and self.runs[identity].purpose == "tuning":
            self.runs[identity] = replace(self.runs[identity], purpose=purpose)
        self.open -= set() if is_open else {identity}
        return self.runs[identity]

    def collected(self, role: str, source: Collected, point: Point, purpose: Purpose) -> dict[str, Run]:
        """Return the runs of a stage along an axis, by the roles that they fill."""
        if source.over not in self.study.axes:
            raise UnknownName(
                f"{role} collects runs over {source.over!r}, which is no axis", self.study.axes, source.over, "Axes"
            )
        stages = self.wiring.needed(source.stage)
        values = enumerate(self.study.axes[source.over], 1)
        return {f"{role}_{index}": self.walk({**point, source.over: value}, stages, purpose) for index, value in values}

    def config(self, name: str, stage: Stage, trainable: Trainable, point: Reads) -> tuple[Config, bool]:
        """Return the typed and pinned config of one stage at one point, and whether it waits for a selection."""
        varied = [axis for axis in self.study.varied if axis in point]
        named = {setting: axis for axis in varied if (setting := _own(name, axis))}
        own = {key: Axis(axis) for key, axis in named.items() if not follows(stage.config.get(key), axis)}
        values = {key: value_at(value, point, f"{name}.{key}") for key, value in {**stage.config, **own}.items()}
        is_open = False
        for setting, selected in [(key, value) for key, value in values.items() if isinstance(value, Selected)]:
            if (axis := f"{name}.{setting}") in point:
                values[setting] = point[axis]
                continue
            choice = self.choices.select(name, setting, selected, point)
            is_open = is_open or choice.value is None
            values[setting] = choice.expected if choice.value is None else choice.value
        key = (name, *((setting, repr(value)) for setting, value in values.items()))
        if key not in self.pinned:
            self.pinned[key] = trainable.pin(validated(name, trainable, values), self.planner)
        return self.pinned[key], is_open

    def identify(self, name: str, trainable: Trainable, config: Config, inputs: Mapping[str, str]) -> str:
        """Return a run's id; digests are kept, for most points of a study share most of their runs."""
        key = (name, id(config), *inputs.items())
        if key not in self.ids:
            about = (name, self.study.stages[name].trainable, trainable.version, config.identity(), inputs)
            self.ids[key] = run_id(*about)
        return self.ids[key]

    def tuning(self, name: str, point: Point) -> Run:
        """Return the tuning run of a stage at one point; its inputs become runs of the plan with it."""
        return self.walk(point, self.wiring.needed(name), "tuning")

    def tuning_ahead(self, name: str, point: Point) -> None:
        """Expect the tuning run of a stage at one point, which a race may come to."""
        known = set(self.runs)
        self.open |= {self.tuning(name, point).id} - known


def _needed(plan: Plan, wiring: Wiring) -> Plan:
    """Return a search's plan without what no point reads, such as an export where every adapter starts at random.

    What only points read that are still to come is expected, as they are.
    """
    before = set(wiring.needed(plan.study.compared_stage)) - {plan.study.compared_stage}
    needed = _with_inputs(plan.runs, before)
    ahead = _with_inputs(plan.outlook.runs, before) - needed
    runs = tuple(run for run in plan.runs if run.id in needed)
    return replace(plan, runs=runs, expected=tuple(run for run in plan.outlook.runs if run.id in ahead))


def _with_inputs(runs: Sequence[Run], before: set[str]) -> set[str]:
    """Return the ids of the runs of other stages than these, and of all among them that those read from."""
    keep = {run.id for run in runs if run.stage not in before}
    for run in reversed(runs):
        if run.id in keep:
            keep |= set(run.inputs.values())
    return keep


def _is_collected(source: str | Collected, axis: str) -> bool:
    """Say whether an axis is the one along which a source is collected, so that the label of one run means nothing."""
    return isinstance(source, Collected) and source.over == axis


def _own(stage: str, axis: str) -> str:
    """Return the setting of the stage that an axis varies, or nothing."""
    owner, dot, setting = axis.partition(".")
    return setting if dot and owner == stage else ""


SHORT = {
    "rank": "r",
    "seed": "s",
    "lora_alpha": "a",
    "alpha_over_rank": "a/r",
    "learning_rate": "lr",
    "lora_dropout": "drop",
    "fold": "f",
}
"""How a number is written in a readable name: `svd r16 s2`."""


def _readable(run: Run) -> str:
    """Return the run's name for people: its stage (but for students), what it is about, then its numbers."""
    words: list[str] = []
    numbers: list[str] = []
    for axis, value in run.labels.items():
        stage, setting = axis.partition(".")[0], setting_of(axis)
        if isinstance(value, int | float) and not isinstance(value, bool):
            numbers.append(f"{SHORT.get(setting, f'{setting}=')}{written(value)}")
        elif stage == run.stage and setting in run.inputs:
            words.insert(0, str(value))
        else:
            words.append(str(value))
    purpose = ["tuning"] if run.purpose == "tuning" else []
    return " ".join([*([] if run.stage == "student" else [run.stage]), *words, *numbers, *purpose])
