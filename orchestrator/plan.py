"""What a study needs: its runs, in dependency order, and what of it is still expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import trainables
from orchestrator.errors import UnknownName
from orchestrator.selection import Selection
from orchestrator.space import Asked
from orchestrator.study import Study
from orchestrator.values import Wiring
from trainables.base import Config, Place, Scalar, Trainable

Purpose: TypeAlias = Literal["verdict", "tuning"]


@dataclass(frozen=True)
class Run:
    """One execution of one stage.

    `inputs` maps roles to run ids; `labels` holds the axis values that all the points sharing this run agree
    on; `name` is for people ("svd r16 s2"), `id` for machines. `purpose` is what it is for: a tuning run chooses a
    setting and enters no verdict. `behind_s` is the time that what cannot be planned before it has ended will take.
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
    purpose: Purpose = "verdict"
    behind_s: float = 0.0

    def find_trainable(self) -> Trainable:
        """Return the trainable that this run executes."""
        return trainables.find(self.trainable)


@dataclass(frozen=True)
class Plan:
    """The runs of a study, in dependency order.

    `expected` are the runs that still wait for a selection, as they would be with the middle of its grid: good for
    what they cost and need, and never executed, for their ids are not final. `selections` says what is chosen how.
    In a search `points` are those asked for so far, and for each that is still to come some other point is expected.
    """

    study: Study
    runs: tuple[Run, ...]
    expected: tuple[Run, ...] = ()
    selections: tuple[Selection, ...] = ()
    points: tuple[Asked, ...] = ()

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
        """Return the plan without what comes after `stage`: its runs, all that they need, and what chooses them."""
        if stage not in self.study.stages:
            raise UnknownName(f"no stage named {stage!r}", self.study.stages, stage, "Stages")
        stages = set(Wiring(self.study).needed(stage))
        selections = tuple(item for item in self.selections if item.stage in stages)
        everything = self.outlook
        keep = {run.id for run in everything.of_stage(stage)} | {id_ for item in selections for id_ in item.runs}
        for run in reversed(everything.runs):
            if run.id in keep:
                keep |= set(run.inputs.values())
        runs, expected = (tuple(run for run in some if run.id in keep) for some in (self.runs, self.expected))
        return Plan(self.study, runs, expected, selections, self.points)

    @property
    def outlook(self) -> Plan:
        """The plan with what is expected among its runs: for looking ahead, never for executing."""
        return Plan(self.study, (*self.runs, *self.expected), (), self.selections, self.points)

    @property
    def points_left(self) -> int:
        """How many points of a search are still to be asked for."""
        return max(self.study.search.points - len(self.points), 0) if self.study.search else 0

    @property
    def open(self) -> list[Selection]:
        """The selections that are not made yet."""
        return [item for item in self.selections if item.value is None]

    def dependants(self, ids: Iterable[str]) -> set[str]:
        """Return the ids of all runs that need one of `ids`, directly or through others."""
        lost = set(ids)
        for run in self.runs:
            if lost & set(run.inputs.values()):
                lost.add(run.id)
        return lost - set(ids)
