"""Scales for a CPU: a model built in code, and SmolLM2 on a laptop."""

from __future__ import annotations

from search_spaces.scales.base import Scale
from trainables.base import Place
from trainables.base_models.shape import SMOLLM2_135M, TINY_QWEN2

SUMS = {
    "source": "chain_sum",
    "generator": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
}
"""Sums of two or three numbers of one or two digits: quick, verifiable, and visibly learnt by a small model."""

SPELLING = {"source": "spell_backward", "max_length": 96}
"""A task that has nothing to do with sums."""

TINY = Scale(
    name="tiny",
    about="a two-layer model built in code; the whole pipeline on one core within a minute; shows nothing but that",
    base_model={"source": "tiny-qwen2"},
    dataset={**SUMS, "items": 400, "max_length": 96, "validation": 40, "test": 40},
    training={"batch_size": 8, "schedule": "linear", "warmup_steps": 2, "eval_every": 10, "precision": "fp32"},
    teacher={"steps": 40, "learning_rate": 3e-3, "seed": 1, "parameters": "linears"},
    student={"steps": 20},
    evaluate={"precision": "fp32"},
    learning_rates={"random": {4: 1e-2}, "svd": {4: 3.2e-3}},
    learning_rates_from="chosen by hand for a model that learns nothing worth knowing",
    tuning_seeds=(101,),
    tuning_start=1,
    ranks=(2, 4, 8),
    seeds=3,
    target_margin=0.05,
    margin=0.05,
    rank=4,
    high_rank=16,
    wrong_dataset={**SPELLING, "items": 200, "validation": 20, "test": 20},
    shape=TINY_QWEN2,
)

LAPTOP = Scale(
    name="laptop",
    about="SmolLM2-135M on short sums; two cores, no GPU, about half an hour for rank_study",
    base_model={"source": "smollm2-135m"},
    dataset={**SUMS, "items": 1500, "max_length": 96, "validation": 32, "test": 80},
    training={"batch_size": 8, "schedule": "linear", "warmup_steps": 2, "eval_every": 8, "precision": "auto"},
    teacher={"steps": 60, "learning_rate": 3e-5, "eval_every": 20, "seed": 1},
    student={"steps": 16},
    evaluate={"precision": "auto"},
    learning_rates={"random": {4: 3.2e-3, 16: 1e-3, 64: 1e-3}, "svd": {4: 3.2e-5, 16: 3.2e-6, 64: 1e-6}},
    learning_rates_from=(
        "that were best by validation loss of seed 101 in a search over random 3e-4, 1e-3, 3e-3, 1e-2 and svd 1e-6, "
        "3e-6, 1e-5, 3e-5, 1e-4; svd at rank 64 gains nothing by training, and its best may lie on an edge"
    ),
    ranks=(4, 16, 64),
    seeds=7,
    target_margin=0.05,
    margin=0.02,
    rank=16,
    wrong_dataset={**SPELLING, "items": 700, "validation": 32, "test": 32},
    shape=SMOLLM2_135M,
    places={"teacher": Place(checkpoint_every=30)},
)
