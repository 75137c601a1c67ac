"""What a study counts as independent: its replicates, known from its axes before anything has run.

A replicate is (data split, teacher seed, student seed); each part is the values of the axes of that kind, outermost
first. Where a teacher's seed simply follows the student's (`Stage("teacher", {"seed": Axis("student.seed")})`), every
student seed is a replicate with a teacher of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.design import Look, Method, needed_replicates, share_alpha
from orchestrator.errors import UserError
from orchestrator.study import Comparison, Study
from trainables.base import Scalar

if TYPE_CHECKING:
    from orchestrator.plan import Plan, Run
    from orchestrator.statistics.replicates import Key

LEVELS = ("split", "teacher", "student")
LONGEST_WRITTEN_OUT = 12
"""Consecutive values beyond which a command has their range."""
SPLITTING = ("dataset", "base_model")
"""Stages whose replicate axes make splits of the data."""


def replicate_axes(study: Study) -> dict[str, str]:
    """Return the axes that make replicates with what each is part of (split, teacher, student), outermost first.

    An axis along which runs are collected makes none: all compared runs read the same collection.
    """
    arm = (study.comparison or Comparison()).arm
    named = [axis for axis in study.axes if study.is_replicate(axis) and axis not in {arm, *study.collected}]
    found = {axis: _level(axis, study.compared_stage) for axis in named}
    return dict(sorted(found.items(), key=lambda item: LEVELS.index(item[1])))


def splitting_axes(study: Study) -> list[str]:
    """Return the axes that split the family into groups: rank, and whatever else varies the compared runs."""
    arm = (study.comparison or Comparison()).arm
    return [axis for axis in study.axes if axis not in {arm, *replicate_axes(study), *study.collected}]


def _level(axis: str, compared: str) -> str:
    stage = axis.partition(".")[0]
    if stage in SPLITTING:
        return "split"
    return "student" if stage == compared else "teacher"


def levels(study: Study) -> list[str]:
    """Return the parts that a replicate of this study has."""
    return list(dict.fromkeys(replicate_axes(study).values()))


def key_of(study: Study, values: Mapping[str, Any]) -> Key:
    """Return the replicate of a run whose axes have these values, a part per level; None for a part it has not."""
    axes = replicate_axes(study)
    parts: list[Hashable] = []
    for level in levels(study):
        own = [values.get(axis) for axis, of_level in axes.items() if of_level == level]
        parts.append(None if all(value is None for value in own) else own[0] if len(own) == 1 else tuple(own))
    return tuple(parts)


@dataclass(frozen=True)
class Design:
    """What a study's comparisons can be judged by: replicates of each, how p is adjusted, and the levels of its looks.

    `replicates` holds the planned replicates of every comparison, by group and arm; `counted` names the parts of a
    replicate that n counts.
    """

    comparison: Comparison
    replicates: Mapping[tuple[tuple[Scalar, ...], str], frozenset[Key]]
    counted: tuple[str, ...]
    note: str
    method: Method
    reason: str

    @property
    def family(self) -> int:
        """The number of comparisons."""
        return len(self.replicates)

    @property
    def planned(self) -> int:
        """The fewest replicates that a comparison has; the declared largest number where looks are declared."""
        if self.comparison.looks:
            return self.comparison.looks[-1]
        return self.have

    @property
    def have(self) -> int:
        """The fewest replicates that the plan gives a comparison."""
        return min((len(keys) for keys in self.replicates.values()), default=0)

    @property
    def looks(self) -> tuple[Look, ...]:
        """The declared looks with their levels; none where none were declared."""
        return levels_of(self.comparison, self.method)

    @property
    def needed(self) -> int:
        """The least replicates with which this family could conclude."""
        count = len(self.comparison.looks) or 1
        return needed_replicates(max(1, self.family), self.comparison.alpha, method=self.method, looks=count)


def levels_of(comparison: Comparison, method: Method) -> tuple[Look, ...]:
    """Return the declared looks of a comparison with the level that each of them has."""
    return share_alpha(comparison.looks, comparison.alpha, method=method) if comparison.looks else ()


def check_looks(comparison: Comparison, planned: int) -> None:
    """Raise UserError where there are more replicates than the last declared look has."""
    if comparison.looks and planned > comparison.looks[-1]:
        raise UserError(
            f"looks after {', '.join(map(str, comparison.looks))}: the study has {planned} replicates; the last look "
            "is the largest number that was declared: leave out replicates, or judge the new ones as a study of theirs"
        )


def design_of(plan: Plan) -> Design | None:
    """Return the design of a plan's comparison; None where it plans none. Raises UserError (see check_looks)."""
    from orchestrator.statistics.families import method_for

    study, comparison = plan.study, plan.study.comparison
    if comparison is None or comparison.arm not in study.axes:
        return None
    keys: dict[tuple[tuple[Scalar, ...], str], frozenset[Key]] = {}
    counted: Sequence[str] = levels(study)
    note = ""
    for group, arm, ours, theirs in _comparisons(plan, comparison):
        found, counted, note = _planned(study, ours, theirs)
        keys[group, arm] = found
    if not keys:
        return None
    method, reason = method_for(list(keys.values()))
    design = Design(comparison, keys, tuple(counted), note, method, reason)
    check_looks(comparison, design.have)
    return design


def _planned(study: Study, ours: Sequence[Key], theirs: Sequence[Key]) -> tuple[frozenset[Key], Sequence[str], str]:
    from orchestrator.statistics.replicates import paired_differences

    sides = [{key: [0.0] for key in side} for side in (ours, theirs)]
    found = paired_differences(*sides, names=levels(study))
    depth = len(next(iter(found.differences), ()))
    shared = [name for at, name in enumerate(levels(study)) if all(key[at] is not None for key in [*ours, *theirs])]
    return frozenset(found.differences), shared[:depth], found.note


def _comparisons(plan: Plan, comparison: Comparison) -> Iterator[tuple[tuple[Scalar, ...], str, list[Key], list[Key]]]:
    """Yield group, arm and the keys of both sides for every arm against the baseline in every group."""
    study = plan.study
    runs = [run for run in plan.outlook.of_stage(study.compared_stage) if is_for_verdict(run)]
    splits = splitting_axes(study)
    groups: dict[tuple[Scalar, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.labels.get(axis) for axis in splits), []).append(run)
    arms = [value for value in study.axes[comparison.arm] if value != comparison.baseline]
    for group, members in groups.items():
        for arm in arms:
            ours, theirs = (
                [key_of(study, run.labels) for run in members if run.labels.get(comparison.arm) == name]
                for name in (arm, comparison.baseline)
            )
            yield group, str(arm), ours, theirs


def counted_axes(study: Study, design: Design) -> list[str]:
    """Return the axes whose values n counts, those that can be lengthened at will first."""
    axes = [axis for axis, level in replicate_axes(study).items() if level in design.counted]
    return sorted(axes, key=is_fold) or [design.comparison.replicate]


def is_fold(axis: str) -> bool:
    """Say whether an axis' values are folds of the same records."""
    return axis.endswith(".fold")


def lengthened(
    study: Study, design: Design, count: int, *, is_fresh: bool = False, avoid: Container[object] = ()
) -> list[tuple[str, str]]:
    """Return the options that give the study `count` replicates, or so many fresh ones; none of `avoid` is new."""
    axes = counted_axes(study, design)
    axis, others = axes[0], math.prod(len(study.axes[name]) for name in axes[1:])
    each = -(-count // others)
    if is_fold(axis):
        folds = ",".join(map(str, range(each)))
        return [("--set", f"{axis}s={each}"), ("--axis", f"{axis}={folds}")]
    known = [value for value in study.axes.get(axis, ()) if isinstance(value, int)]
    fresh = (value for value in itertools.count(max([*known, 0]) + 1) if value not in avoid)
    values = [] if is_fresh else known[:each]
    values += itertools.islice(fresh, each - len(values))
    return [("--axis", f"{axis}={_listed(values)}")]


def _listed(values: Sequence[int]) -> str:
    """Return the values as `--axis` takes them: long stretches of whole numbers as FIRST..LAST."""
    stretches = [list(stretch) for _, stretch in itertools.groupby(enumerate(values), lambda pair: pair[1] - pair[0])]
    parts = [[value for _, value in stretch] for stretch in stretches]
    return ",".join(
        f"{part[0]}..{part[-1]}" if len(part) > LONGEST_WRITTEN_OUT else ",".join(map(str, part)) for part in parts
    )


def is_for_verdict(run: Run) -> bool:
    """Say whether a run is one that verdicts are given on; tuning runs are not."""
    return run.purpose == "verdict"
