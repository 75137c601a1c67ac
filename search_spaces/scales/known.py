"""Scales with a known answer: any comparison study's design on the tiny model, where nothing differs, or a known thing.

What they do to a study is in orchestrator.rehearsal. Everything is as small as a run may be that still learns
something, for a design is run many times over.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.study import Rehearsal
from search_spaces.scales.small import LAPTOP, SUMS, TINY
from trainables.base import Place

NULL = replace(
    TINY,
    name="null",
    about="a rehearsal: any study's design, 20 times over, on a tiny model whose arms do not differ; half an hour",
    dataset={**SUMS, "items": 200, "max_length": 96, "validation": 16, "test": 48},
    training={"batch_size": 4, "schedule": "linear", "warmup_steps": 1, "eval_every": 100, "precision": "fp32"},
    teacher={"steps": 20, "learning_rate": 3e-3, "seed": 1, "parameters": "linears"},
    student={"steps": 12},
    evaluate={"precision": "fp32", "max_new_tokens": 1},
    learning_rates={init: {4: 3.2e-2, 8: 1e-2} for init in TINY.learning_rates},
    learning_rates_from="that were best in a few tuning runs; every arm is the baseline, and has its grid",
    seeds=7,
    tuning_seeds=LAPTOP.tuning_seeds,
    tuning_start=LAPTOP.tuning_start,
    places={"student": Place(checkpoint_every=1000, log_every=100)},
    rehearsal=Rehearsal(repetitions=20),
)

PLANTED = replace(
    NULL,
    name="planted",
    about="a rehearsal: the same, but all arms save the baseline train longer, by 50, 100 and 200 % in turn",
    rehearsal=Rehearsal(repetitions=20, longer=(0.5, 1.0, 2.0)),
)
