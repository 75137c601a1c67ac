"""A scale: what a machine and a model decide of a study. Learning rates belong to an (arm, model) pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.study import Axis, By, Computed, Rehearsal, Selected, Stage, around
from trainables.base import InputError, Place
from trainables.base_models.shape import Shape


def export_rank(rank: int) -> int:
    """Return the rank to export for a student of `rank`: the next power of two, at least 64 (contract C1)."""
    return max(64, 1 << (rank - 1).bit_length())


@dataclass(frozen=True)
class Scale:
    """One named size. The mappings are settings of the stages of the same names.

    `learning_rates` gives each arm the rate that its grid lies around, by rank, and `learning_rates_from` says whence;
    `tuning_seeds` are those that choose among the rates, and no verdict's. `shape` is the base model's, known before
    it is fetched; `places` says where the stages run. With a `rehearsal` every study of this scale is one.
    """

    name: str
    about: str
    base_model: Mapping[str, Any]
    dataset: Mapping[str, Any]
    training: Mapping[str, Any]
    teacher: Mapping[str, Any]
    student: Mapping[str, Any]
    evaluate: Mapping[str, Any]
    learning_rates: Mapping[str, Mapping[int, float]]
    learning_rates_from: str
    ranks: tuple[int, ...]
    seeds: int
    target_margin: float
    shape: Shape
    tuning_seeds: tuple[int, ...] = (101,)
    places: Mapping[str, Place] = field(default_factory=dict)
    rehearsal: Rehearsal | None = None

    def stages(self) -> dict[str, Stage]:
        """Return the six stages from base model to evaluation; each arm's learning rate is selected, by rank."""
        reads = {"base_model": "base_model", "dataset": "dataset"}
        subjects = ("base_model", "teacher", "svd_export", "student")
        truncation = By("evaluate.subject", svd_export=Axis("student.rank"), otherwise=None)
        return {
            "base_model": self._stage("base_model", self.base_model),
            "dataset": self._stage("dataset", self.dataset, {"base_model": "base_model"}),
            "teacher": self._stage("teacher", {**self.training, **self.teacher}, reads),
            "svd_export": self._stage(
                "svd_export",
                {"rank": Computed(export_rank, "student.rank")},
                {"base_model": "base_model", "teacher": "teacher"},
            ),
            "student": self._stage(
                "student",
                {**self.training, **self.student, "learning_rate": self.selected_rate()},
                {**reads, "svd_export": "svd_export"},
            ),
            "evaluate": self._stage("evaluate", {**self.evaluate, "rank": truncation}, {**reads, "subject": subjects}),
        }

    def learning_rate(self, init: str, rank: int) -> float:
        """Return the rate that an arm's grid lies around at a rank: that of the nearest rank, in octaves."""
        if init not in self.learning_rates:
            known = ", ".join(self.learning_rates)
            raise InputError(
                f"scale {self.name} knows no learning rate for init {init!r} (only for {known}); "
                "give one with --set student.learning_rate=VALUE"
            )
        tuned = self.learning_rates[init]
        return tuned[min(tuned, key=lambda other: abs(math.log2(other / rank)))]

    def selected_rate(self, *, widenings: int = 3) -> Selected:
        """Return the students' learning rate: selected for every arm and rank from a grid of its own."""
        grid = Computed(self.grid, "student.init", "student.rank")
        return Selected(grid, seeds=self.tuning_seeds, widenings=widenings)

    def grid(self, init: str, rank: int) -> tuple[float, ...]:
        """Return the rates that an arm at a rank chooses among: half decades, alike for all arms."""
        return around(self.learning_rate(init, rank))

    def _stage(self, name: str, config: Mapping[str, Any], inputs: Mapping[str, Any] | None = None) -> Stage:
        return Stage(name, config, inputs or {}, self.places.get(name, Place()))
