"""Scales for GPUs: Qwen2.5-Math on word problems. Which placement fits which card is held to the memory estimate."""

from __future__ import annotations

from dataclasses import replace

from search_spaces.scales.base import Scale
from trainables.base import Place
from trainables.base_models.shape import QWEN_MATH_1_5B, QWEN_MATH_7B

WORD_PROBLEMS = {
    "source": "gsm_symbolic",
    "completion": "answer_cot",
    "items": 8000,
    "max_length": 512,
    "validation": 200,
    "test": 500,
}

LETTERS = {"source": "letter_counting", "items": 4000, "max_length": 256, "validation": 200, "test": 200}
"""A task that has nothing to do with word problems but that its answers are numbers."""

A100_40G, H100_80G, CARD_48G = 39.0, 79.0, 44.5
"""GiB that nvidia-smi shows of the smallest card of each size: A100 PCIe, H100 SXM, L40S (an RTX A6000 has 48)."""

GPU = Place(gpus=1, cpus=4, checkpoint_every=50)
ON_40G, ON_48G, ON_80G = (GPU.model_copy(update={"device_memory_gib": size}) for size in (A100_40G, CARD_48G, H100_80G))
CPU = Place(cpus=4)

QWEN_1_5B = Scale(
    name="qwen2.5-math-1.5b",
    about="Qwen2.5-Math-1.5B on word problems; one GPU of 40 GB or more, four to be quick",
    base_model={"source": "Qwen/Qwen2.5-Math-1.5B", "revision": "4a83ca6e4526a4f2da3aa259ec36c259f66b2ab2"},
    dataset=WORD_PROBLEMS,
    training={"batch_size": 32, "schedule": "cosine", "warmup_steps": 10, "eval_every": 25, "precision": "bf16"},
    teacher={"steps": 250, "learning_rate": 1e-5, "seed": 1},
    student={"steps": 125},
    evaluate={"precision": "bf16"},
    learning_rates={"random": {16: 2e-4}, "svd": {16: 3e-5}},
    learning_rates_from="common in the literature for LoRA and full fine-tuning at this size; each arm tunes its own",
    ranks=(4, 8, 16, 32, 64),
    seeds=7,
    target_margin=0.02,
    margin=0.01,
    rank=16,
    wrong_dataset=LETTERS,
    shape=QWEN_MATH_1_5B,
    places={
        "base_model": CPU,
        "dataset": CPU,
        "teacher": ON_40G.model_copy(update={"per_device_batch_size": 4, "gradient_checkpointing": True}),
        "svd_export": ON_40G,
        "student": ON_40G.model_copy(update={"per_device_batch_size": 8, "gradient_checkpointing": True}),
        "evaluate": ON_40G.model_copy(update={"evaluation_batch_size": 64}),
    },
)

QWEN_7B = Scale(
    name="qwen2.5-math-7b",
    about="Qwen2.5-Math-7B on word problems; one node of eight GPUs of 80 GB, ZeRO-3 for the teacher",
    base_model={"source": "Qwen/Qwen2.5-Math-7B", "revision": "b101308fe89651ea5ce025f25317fea6fc07e96e"},
    dataset=WORD_PROBLEMS,
    training={"batch_size": 64, "schedule": "cosine", "warmup_steps": 10, "eval_every": 25, "precision": "bf16"},
    teacher={"steps": 250, "learning_rate": 5e-6, "seed": 1},
    student={"steps": 125},
    evaluate={"precision": "bf16"},
    learning_rates={"random": {16: 2e-4}, "svd": {16: 2e-5}},
    learning_rates_from="common in the literature for LoRA and full fine-tuning at this size; each arm tunes its own",
    ranks=(4, 8, 16, 32, 64),
    seeds=7,
    target_margin=0.02,
    margin=0.01,
    rank=16,
    wrong_dataset=LETTERS,
    shape=QWEN_MATH_7B,
    places={
        "base_model": CPU,
        "dataset": CPU,
        "teacher": ON_80G.model_copy(
            update={
                "workers": 8,
                "strategy": "STRICT_PACK",
                "zero_stage": 3,
                "per_device_batch_size": 4,
                "gradient_checkpointing": True,
            }
        ),
        "svd_export": ON_80G.model_copy(update={"cpus": 8}),
        "student": ON_80G.model_copy(update={"per_device_batch_size": 8, "gradient_checkpointing": True}),
        "evaluate": ON_80G.model_copy(update={"evaluation_batch_size": 32}),
    },
)

QWEN_7B_48G = replace(
    QWEN_7B,
    name="qwen2.5-math-7b-48g",
    about=(
        "Qwen2.5-Math-7B on one GPU of 48 GB: best with a teacher of your own (--teacher); to train one here, ZeRO-3 "
        "keeps its optimiser in 172 GiB of the machine's memory"
    ),
    places={
        "base_model": CPU,
        "dataset": CPU,
        "teacher": ON_48G.model_copy(
            update={"zero_stage": 3, "offload": True, "per_device_batch_size": 1, "gradient_checkpointing": True}
        ),
        "svd_export": ON_48G,
        "student": ON_48G.model_copy(update={"per_device_batch_size": 4, "gradient_checkpointing": True}),
        "evaluate": ON_48G.model_copy(update={"evaluation_batch_size": 16}),
    },
)
