"""A study's design where the answer is known: how often does it err, and what does it detect?

`rehearse` turns a study into one that runs its design again and again, with other seeds each time, on arms that are all
the baseline: they read what the baseline reads, and differ in their seeds alone, so that no true difference is left.
What is planted, if anything, is longer training of all arms but the baseline. Ranks, replicates, family, looks, margin
and the selection of learning rates stay the study's, and so does every step from planning to the verdict; the study
does not know that it is rehearsed.

A repetition is an axis without a dot. `parts` takes a plan apart into those of its repetitions, each a plan of the
design itself; the first is what a report shows, and all are what it counts (orchestrator.report.rehearsal).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import trainables
from orchestrator.errors import UserError
from orchestrator.plan import Plan, Run
from orchestrator.selection import Selection
from orchestrator.study import Axis, By, Collected, Computed, Rehearsal, Selected, Stage, Study, setting_of
from trainables.base import Scalar

Item = TypeVar("Item", Run, Selection)
REPETITION = "repetition"
UNMEASURED: Mapping[str, Any] = {"geometry": False, "forgetting_window": None}
"""Settings of evaluations that cost time and that no verdict needs."""


def rehearse(study: Study, rehearsal: Rehearsal) -> Study:
    """Return the study as its rehearsal, a design of its own name; it has an axis `repetition` already.

    Raises UserError where there is nothing to compare, or nothing that could be planted.
    """
    arm = _arm(study)
    stages = {name: _as_baseline(study, name, stage) for name, stage in study.stages.items()}
    owner, dot, setting = arm.partition(".")
    if dot:
        own = {setting: By(arm, otherwise=baseline_of(study))}
        stages[owner] = replace(stages[owner], config={**stages[owner].config, **own})
    found = replace(study, stages=stages, rehearsal=rehearsal, name=f"{study.name}-{study.scale}")
    found = _planted(found) if rehearsal.longer else found
    kind = "with a planted effect" if rehearsal.longer else "without any effect"
    note = f"a rehearsal {kind}: every arm is {baseline_of(study)} under its own seeds, and no verdict is about an arm"
    return replace(found, description=f"A rehearsal {kind}: {study.description}", notes=(note, *study.notes))


def baseline_of(study: Study) -> Scalar:
    """Return the value of the compared axis that is the baseline; UserError where it is none of its values."""
    assert study.comparison is not None
    axis, wanted = study.comparison.arm, str(study.comparison.baseline)
    found = [value for value in study.axes[axis] if str(value) == wanted]
    if not found:
        raise UserError(f"{study.name} compares with {wanted}, which is no value of {axis}: put it among --axis {axis}")
    return found[0]


def longer_by(study: Study, arm: Scalar, group: Scalar = None) -> float:
    """Return what is planted in the comparison of an arm in a group: the share of steps that it trains longer."""
    assert study.comparison is not None
    if study.rehearsal is None or not study.rehearsal.longer:
        return 0.0
    return _longer(study, study.rehearsal.longer).share(arm, group)


def first(plan: Plan) -> Plan:
    """Return the plan of the design: the first repetition of a rehearsal; any other plan as it is."""
    return parts(plan)[0]


def parts(plan: Plan) -> list[Plan]:
    """Return the plans of all repetitions, each of the design itself; any other plan alone."""
    if plan.study.rehearsal is None or REPETITION not in plan.study.axes:
        return [plan]
    axes = {axis: values for axis, values in plan.study.axes.items() if axis != REPETITION}
    study = replace(plan.study, axes=axes)
    return [_part(plan, study, number) for number in plan.study.axes[REPETITION]]


def _part(plan: Plan, study: Study, number: Scalar) -> Plan:
    runs, expected = ([_unnumbered(run) for run in some if _is_of(run, number)] for some in (plan.runs, plan.expected))
    selections = [_unnumbered(item) for item in plan.selections if _is_of(item, number)]
    return Plan(study, tuple(runs), tuple(expected), tuple(selections))


def _is_of(item: Run | Selection, number: Scalar) -> bool:
    return item.labels.get(REPETITION, number) == number


def _unnumbered(item: Item) -> Item:
    return replace(item, labels={axis: value for axis, value in item.labels.items() if axis != REPETITION})


# -- every arm as the baseline ----------------------------------------------------------------------------


def _arm(study: Study) -> str:
    comparison = study.comparison
    if comparison is None or comparison.arm not in study.axes:
        raise UserError(f"{study.name} compares no arms: there is nothing to rehearse; take another --scale")
    return comparison.arm


def _as_baseline(study: Study, name: str, stage: Stage) -> Stage:
    """Return a stage that reads the baseline's settings and inputs in every arm, with seeds of its repetition."""
    kept = {key: value for key, value in UNMEASURED.items() if key in stage.config and stage.trainable == "evaluate"}
    config = {key: _at_baseline(study, value) for key, value in {**stage.config, **kept}.items()}
    config = {key: _shifted(study, name, value) for key, value in config.items()}
    own = {setting_of(axis): Axis(axis) for axis in _luck(study) if axis.partition(".")[0] == name}
    config |= {setting: _shifted(study, name, axis) for setting, axis in own.items()}
    inputs = {role: _at_baseline(study, source) for role, source in stage.inputs.items()}
    return replace(stage, config=config, inputs=inputs)


def _at_baseline(study: Study, value: Any) -> Any:
    """Return a value of the study with the compared axis replaced by the baseline."""
    arm, baseline = _arm(study), baseline_of(study)
    if isinstance(value, Axis):
        return baseline if value.name == arm else value
    if isinstance(value, Computed):
        return Computed(_Fixed(value, arm, baseline), *(axis for axis in value.axes if axis != arm))
    if isinstance(value, Selected):
        return replace(value, grid=_at_baseline(study, value.grid))
    if not isinstance(value, By):
        return value
    if value.axis == arm and (chosen := value.table.get(baseline, value.otherwise)) is not ...:
        return _at_baseline(study, chosen)
    table = {key: _at_baseline(study, chosen) for key, chosen in value.table.items()}
    return By(value.axis, table, otherwise=_at_baseline(study, value.otherwise))


@dataclass(frozen=True)
class _Fixed:
    """A computed value with one of its axes held fast."""

    value: Computed
    axis: str
    at: Scalar

    def __call__(self, *others: Any) -> Any:
        rest = iter(others)
        return self.value.function(*(self.at if axis == self.axis else next(rest) for axis in self.value.axes))


# -- seeds ------------------------------------------------------------------------------------------------


def seed_of(seed: int, repetition: Scalar, arm: Scalar = None) -> int:
    """Return the seed (48 bits) that a seed of the design stands for in a repetition, and in an arm."""
    text = f"seed {seed} of {arm} in repetition {repetition}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _luck(study: Study) -> list[str]:
    """Return the axes whose values are luck: replicates, but for folds and for what one run collects."""
    collected = {
        source.over
        for stage in study.stages.values()
        for source in stage.inputs.values()
        if isinstance(source, Collected)
    }
    named = [axis for axis in study.axes if study.is_replicate(axis) and setting_of(axis) != "fold"]
    return [axis for axis in named if axis not in collected and axis != _arm(study)]


def _shifted(study: Study, stage: str, value: Any) -> Any:
    """Return a seed as that of its repetition; in the runs that are compared, of its arm as well."""
    if not isinstance(value, Axis) or value.name not in _luck(study):
        return value
    arms = (_arm(study),) if stage == study.compared_stage else ()
    return Computed(seed_of, value.name, REPETITION, *arms)


# -- what is planted --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Longer:
    """Steps by arm and group: the baseline's, and so many more in the other arms."""

    shares: tuple[float, ...]
    arms: tuple[Scalar, ...]
    groups: tuple[Scalar, ...]
    steps: int = 0

    def __call__(self, arm: Scalar, group: Scalar = None) -> int:
        return round(self.steps * (1 + self.share(arm, group)))

    def share(self, arm: Scalar, group: Scalar) -> float:
        """Return the share by which an arm trains longer; 0 for the baseline, which is not among the arms."""
        if arm not in self.arms:
            return 0.0
        place = self.arms.index(arm) + (self.groups.index(group) if group in self.groups else 0)
        return self.shares[place % len(self.shares)]


def _longer(study: Study, shares: tuple[float, ...]) -> _Longer:
    assert study.comparison is not None
    arms = tuple(value for value in study.axes[study.comparison.arm] if value != baseline_of(study))
    return _Longer(shares, arms, study.axes.get(study.comparison.by or "", ()))


def _planted(study: Study) -> Study:
    """Return the study with arms that train longer than the baseline."""
    assert study.comparison is not None
    assert study.rehearsal is not None
    name = study.compared_stage
    settings = trainables.find(study.stages[name].trainable).config.model_fields
    steps = study.stages[name].config.get("steps", settings["steps"].default if "steps" in settings else None)
    if not isinstance(steps, int) or f"{name}.steps" in study.axes:
        raise UserError(
            f"{study.name}: {name}.steps is no single number, so that no longer training can be planted; "
            f"give one with --set {name}.steps=12, or take --scale null"
        )
    axes = [axis for axis in (study.comparison.arm, study.comparison.by) if axis in study.axes]
    longer = replace(_longer(study, study.rehearsal.longer), steps=steps)
    return study.with_setting(name, "steps", Computed(longer, *[axis for axis in axes if axis is not None]))
