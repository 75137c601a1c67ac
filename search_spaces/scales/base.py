"""A scale: what a machine and a model decide of a study. Learning rates belong to an (arm, model) pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.study import Axis, By, Computed, Rehearsal, Selected, Stage, around
from trainables.base import InputError, Place
from trainables.base_models.shape import Shape
from trainables.training.compute import compute_matched_steps

STARTS_LIKE = {
    "random": ("subspace_only", "svd_subtracted", "pissa", "spectrum_random", "wrong_teacher"),
    "svd": ("svd_balanced", "lora_squeeze"),
}
"""Inits whose grids lie around another's rate: svd's for those that start near what the teacher has learnt already,
random's for those that have it all to learn."""
GENERAL_TEXT = 256
"""Tokens of a window of the text that forgetting is measured on."""


def export_rank(rank: int) -> int:
    """Return the rank to export for a student of `rank`: the next power of two, at least 64 (contract C1)."""
    return max(64, 1 << (rank - 1).bit_length())


@dataclass(frozen=True)
class Scale:
    """One named size. The mappings are settings of the stages of the same names.

    `learning_rates` gives the inits random and svd the rate that their grids lie around, by rank, and
    `learning_rates_from` says whence; the other inits share these (STARTS_LIKE). `tuning_seeds` are those that choose
    among the rates, and no verdict's: every rate is tried on the first `tuning_start` of them, and those within noise
    of the best on more (Selected.start): as many as a verdict's and one, for a choice about as sure as a verdict.

    margin          the smallest difference in test loss (nats per token) that matters
    rank            of studies that vary something else; `ranks` of those that vary it
    high_rank       of a LoRA that stands for a teacher
    wrong_dataset   another task's data, for a teacher that has nothing to teach
    shape           the base model's, known before it is fetched
    places          where the stages run
    rehearsal       every study of this scale is one
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
    margin: float
    rank: int
    wrong_dataset: Mapping[str, Any]
    shape: Shape
    high_rank: int = 64
    tuning_seeds: tuple[int, ...] = tuple(range(101, 109))
    tuning_start: int = 2
    places: Mapping[str, Place] = field(default_factory=dict)
    rehearsal: Rehearsal | None = None

    def stages(self, *further: str) -> dict[str, Stage]:
        """Return the six stages from base model to evaluation; each arm's learning rate is selected, by rank.

        `further` names stages that the study adds and that are to be tested, too: references in its report.
        """
        reads = {"base_model": "base_model", "dataset": "dataset"}
        subjects = ("base_model", "teacher", "svd_export", "student", *further)
        tested = {
            "forgetting_window": GENERAL_TEXT,
            **self.evaluate,
            "geometry": By("evaluate.subject", base_model=False, otherwise=True),
            "rank": By("evaluate.subject", svd_export=Axis("student.rank"), otherwise=None),
        }
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
            "evaluate": self._stage("evaluate", tested, {**reads, "subject": subjects, "teacher": "teacher"}),
        }

    def learning_rate(self, init: str, rank: int) -> float:
        """Return the rate that an arm's grid lies around at a rank: that of the nearest rank, in octaves."""
        like = {other: tuned for tuned, others in STARTS_LIKE.items() for other in others}
        if like.get(init, init) not in self.learning_rates:
            known = ", ".join([*self.learning_rates, *like])
            raise InputError(
                f"scale {self.name} knows no learning rate for init {init!r} (only for {known}); "
                "give one with --set student.learning_rate=VALUE"
            )
        tuned = self.learning_rates[like.get(init, init)]
        return tuned[min(tuned, key=lambda other: abs(math.log2(other / rank)))]

    def selected_rate(self, *, widenings: int = 3) -> Selected:
        """Return the students' learning rate: selected for every arm and rank from a grid of its own."""
        grid = Computed(self.grid, "student.init", "student.rank")
        return replace(self.selected(grid), widenings=widenings)

    def selected(self, grid: Any) -> Selected:
        """Return a setting that is selected from this grid on the scale's tuning seeds."""
        return Selected(grid, seeds=self.tuning_seeds, start=self.tuning_start)

    def grid(self, init: str, rank: int) -> tuple[float, ...]:
        """Return the rates that an arm at a rank chooses among: half decades, alike for all arms."""
        return around(self.learning_rate(init, rank))

    def compute_matched_steps(self, rank: int) -> int:
        """Return the steps of a student that cost what its own and the teacher's cost together."""
        return compute_matched_steps(
            self.student["steps"],
            rank,
            self.shape,
            teacher_steps=self.teacher["steps"],
            teacher_trains=self.teacher.get("parameters", "all"),
        )

    def high_rank_student(self) -> Stage:
        """Return a LoRA of high rank in a teacher's stead: from a random start, for as many steps, with its seed."""
        config = {**self.training, **self.student, "rank": self.high_rank}
        config |= {name: self.teacher[name] for name in ("steps", "seed")}
        config |= {"learning_rate": self.learning_rate("random", self.high_rank)}
        reads = {"base_model": "base_model", "dataset": "dataset"}
        return Stage("student", config, reads, self.places.get("student", Place()))

    def notes(self) -> tuple[str, ...]:
        """Return what a report says of this scale."""
        return (f"learning-rate grids lie around rates {self.learning_rates_from}",)

    def _stage(self, name: str, config: Mapping[str, Any], inputs: Mapping[str, Any] | None = None) -> Stage:
        return Stage(name, config, inputs or {}, self.places.get(name, Place()))
