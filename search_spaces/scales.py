"""Named sizes of the same study: what a laptop trains in minutes and eight GPUs in hours.

A scale holds what a machine and a model decide; a study adds what it varies. Learning rates belong to an
(arm, model) pair and say where they come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.study import Axis, By, Computed, Stage
from trainables.base import InputError, Place


def export_rank(rank: int) -> int:
    """Return the rank to export for a student of `rank`: the next power of two, at least 64 (contract C1)."""
    return max(64, 1 << (rank - 1).bit_length())


@dataclass(frozen=True)
class Scale:
    """One named size. The mappings are settings of the stages of the same names.

    `learning_rates` gives each arm the rates it was tuned at, by rank, and `learning_rates_from` says how;
    `parameters` is the base model's size, known before it is fetched; `places` says where the stages run.
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
    parameters: float
    places: Mapping[str, Place] = field(default_factory=dict)

    def stages(self) -> dict[str, Stage]:
        """Return the six stages from base model to evaluation, each arm with its own learning rate."""
        reads = {"base_model": "base_model", "dataset": "dataset"}
        learning_rate = Computed(self.learning_rate, "student.init", "student.rank")
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
                {**self.training, **self.student, "learning_rate": learning_rate},
                {**reads, "svd_export": "svd_export"},
            ),
            "evaluate": self._stage("evaluate", {**self.evaluate, "rank": truncation}, {**reads, "subject": subjects}),
        }

    def learning_rate(self, init: str, rank: int) -> float:
        """Return the rate of an arm at a rank: the one tuned at the nearest rank, in octaves."""
        if init not in self.learning_rates:
            known = ", ".join(self.learning_rates)
            raise InputError(
                f"scale {self.name} knows no learning rate for init {init!r} (only for {known}); "
                "give one with --set student.learning_rate=VALUE"
            )
        tuned = self.learning_rates[init]
        return tuned[min(tuned, key=lambda other: abs(math.log2(other / rank)))]

    def _stage(self, name: str, config: Mapping[str, Any], inputs: Mapping[str, Any] | None = None) -> Stage:
        return Stage(name, config, inputs or {}, self.places.get(name, Place()))


SUMS = {
    "source": "chain_sum",
    "generator": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
}
"""Sums of two or three numbers of one or two digits: quick, verifiable, and visibly learnt by a small model."""

TINY = Scale(
    name="tiny",
    about="a two-layer model built in code; the whole pipeline on one core within a minute; shows nothing but that",
    base_model={"source": "tiny-qwen2"},
    dataset={**SUMS, "items": 400, "max_length": 96, "validation": 40, "test": 40},
    training={"batch_size": 8, "schedule": "linear", "warmup_steps": 2, "eval_every": 10, "precision": "fp32"},
    teacher={"steps": 40, "learning_rate": 3e-3, "seed": 1, "parameters": "linears"},
    student={"steps": 20},
    evaluate={"precision": "fp32"},
    learning_rates={"random": {4: 1e-2}, "svd": {4: 3e-3}},
    learning_rates_from="chosen by hand for a model that learns nothing worth knowing",
    ranks=(2, 4, 8),
    seeds=3,
    target_margin=0.05,
    parameters=1e5,
)

LAPTOP = Scale(
    name="laptop",
    about="SmolLM2-135M on short sums; two cores, no GPU, about ten minutes",
    base_model={"source": "smollm2-135m"},
    dataset={**SUMS, "items": 1500, "max_length": 96, "validation": 32, "test": 80},
    training={"batch_size": 8, "schedule": "linear", "warmup_steps": 2, "eval_every": 8, "precision": "auto"},
    teacher={"steps": 60, "learning_rate": 3e-5, "eval_every": 20, "seed": 1},
    student={"steps": 16},
    evaluate={"precision": "auto"},
    learning_rates={"random": {4: 3e-3, 16: 1e-3, 64: 1e-3}, "svd": {4: 3e-5, 16: 3e-6, 64: 1e-6}},
    learning_rates_from=(
        "per arm and rank, the best by validation loss of seed 101, which no verdict uses: random of 3e-4, 1e-3, 3e-3, "
        "1e-2; svd of 1e-6, 3e-6, 1e-5, 3e-5, 1e-4 (rank 4 without 1e-6). svd at rank 64 is on the edge: it gains "
        "nothing by training"
    ),
    ranks=(4, 16, 64),
    seeds=7,
    target_margin=0.05,
    parameters=1.345e8,
    places={"teacher": Place(checkpoint_every=30)},
)

WORD_PROBLEMS = {
    "source": "gsm_symbolic",
    "completion": "answer_cot",
    "items": 8000,
    "max_length": 512,
    "validation": 200,
    "test": 500,
}

QWEN_1_5B = Scale(
    name="qwen2.5-math-1.5b",
    about="Qwen2.5-Math-1.5B on word problems; one GPU of 40 GB or more, four to be quick",
    base_model={"source": "Qwen/Qwen2.5-Math-1.5B", "revision": "main"},
    dataset=WORD_PROBLEMS,
    training={"batch_size": 32, "schedule": "cosine", "warmup_steps": 10, "eval_every": 25, "precision": "bf16"},
    teacher={"steps": 250, "learning_rate": 1e-5, "seed": 1},
    student={"steps": 125},
    evaluate={"precision": "bf16"},
    learning_rates={"random": {16: 2e-4}, "svd": {16: 3e-5}},
    learning_rates_from="common in the literature for LoRA and full fine-tuning at this size; not tuned here",
    ranks=(4, 8, 16, 32, 64),
    seeds=7,
    target_margin=0.02,
    parameters=1.54e9,
    places={
        "base_model": Place(cpus=4),
        "dataset": Place(cpus=4),
        "teacher": Place(gpus=1, cpus=4, per_device_batch_size=8, gradient_checkpointing=True, checkpoint_every=50),
        "svd_export": Place(gpus=1, cpus=4),
        "student": Place(gpus=1, cpus=4, per_device_batch_size=16, checkpoint_every=50),
        "evaluate": Place(gpus=1, cpus=4, evaluation_batch_size=64),
    },
)

QWEN_7B = Scale(
    name="qwen2.5-math-7b",
    about="Qwen2.5-Math-7B on word problems; one node of eight GPUs of 80 GB, ZeRO-3 for the teacher",
    base_model={"source": "Qwen/Qwen2.5-Math-7B", "revision": "main"},
    dataset=WORD_PROBLEMS,
    training={"batch_size": 64, "schedule": "cosine", "warmup_steps": 10, "eval_every": 25, "precision": "bf16"},
    teacher={"steps": 250, "learning_rate": 5e-6, "seed": 1},
    student={"steps": 125},
    evaluate={"precision": "bf16"},
    learning_rates={"random": {16: 2e-4}, "svd": {16: 2e-5}},
    learning_rates_from="common in the literature for LoRA and full fine-tuning at this size; not tuned here",
    ranks=(4, 8, 16, 32, 64),
    seeds=7,
    target_margin=0.02,
    parameters=7.62e9,
    places={
        "base_model": Place(cpus=4),
        "dataset": Place(cpus=4),
        "teacher": Place(
            workers=8,
            gpus=1,
            cpus=4,
            strategy="STRICT_PACK",
            zero_stage=3,
            per_device_batch_size=4,
            gradient_checkpointing=True,
            checkpoint_every=50,
        ),
        "svd_export": Place(gpus=1, cpus=8),
        "student": Place(gpus=1, cpus=4, per_device_batch_size=8, gradient_checkpointing=True, checkpoint_every=50),
        "evaluate": Place(gpus=1, cpus=4, evaluation_batch_size=32),
    },
)

SCALES: Mapping[str, Scale] = {scale.name: scale for scale in (TINY, LAPTOP, QWEN_1_5B, QWEN_7B)}
