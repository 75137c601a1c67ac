"""The model of memory against processes: the peak of anonymous pages above what the imports leave.

    python -m pytest tests/benchmarks/test_memory.py -n 0 -m benchmark -s       SmolLM2-135M, some ten minutes
    python -m pytest tests/benchmarks/test_memory.py -m slow               a small Llama

MEMORY_BASE names the folder of another base model than SmolLM2-135M.
"""

import os
from pathlib import Path

import pytest

from tests.benchmarks.peaks import Case, measure, predicted
from tests.trainables.driver import drive

TOLERANCE = 0.25
"""Of the measured peak; a process' allocator and the machine's load move it by some 5 %."""
TRAINING = {"steps": 2, "batch_size": 8, "eval_every": 2, "seed": 1}
SETTINGS = {"teacher": {**TRAINING, "learning_rate": 1e-5}, "student": {**TRAINING, "rank": 16, "init": "random"}}


def case(base: Path, trainable: str, precision: str, size: int, **place: object) -> Case:
    settings = {**SETTINGS[trainable], "precision": precision}
    micro_batch = {"per_device_batch_size": size, "evaluation_batch_size": size}
    return Case(str(base), trainable, settings, {**micro_batch, **place}, vocabulary=4000)


def compare(asked: Case, folder: Path, name: str) -> float:
    """Return the model's answer as a share of what was measured, and print both."""
    found, said = measure(asked, folder), predicted(asked)
    print(
        f"\n{name:<58} measured {found / 2**30:.2f} GiB, predicted {said / 2**30:.2f}: {said / found - 1:+.0%}", end=""
    )
    return said / found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Llama of 24 million parameters with random weights."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder = tmp_path_factory.mktemp("small") / "base"
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2}
    sizes = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 10, "vocab_size": 16384}
    config = LlamaConfig(**sizes, **heads, tie_word_embeddings=True, pad_token_id=0, bos_token_id=None, eos_token_id=1)
    with torch.random.fork_rng(devices=[]):
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainable", "precision", "size", "checkpointing"),
    [("teacher", "fp32", 8, False), ("teacher", "bf16", 2, True), ("student", "fp32", 8, False)],
)
def test_a_run_holds_what_the_model_says(small, tmp_path, trainable, precision, size, checkpointing):
    asked = case(small, trainable, precision, size, gradient_checkpointing=checkpointing)
    name = f"{trainable} {precision} micro-batch {size}"
    assert compare(asked, tmp_path, name) == pytest.approx(1, abs=TOLERANCE)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "MEMORY_BASE" in os.environ:
        return Path(os.environ["MEMORY_BASE"])
    folder = tmp_path_factory.mktemp("smollm2") / "base"
    drive("base_model", {"source": "smollm2-135m"}, folder)
    return folder


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("trainable", ["teacher", "student"])
def test_one_process(smollm2, tmp_path, trainable, size, checkpointing, precision):
    name = f"{trainable} {precision} micro-batch {size} {'gradient checkpointing' * checkpointing}"
    asked = case(smollm2, trainable, precision, size, gradient_checkpointing=checkpointing)
    assert compare(asked, tmp_path, name) == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("offload", [False, True], ids=["", "offload"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_two_workers_of_zero_3(smollm2, tmp_path, checkpointing, offload):
    place = {"workers": 2, "zero_stage": 3, "offload": offload, "gradient_checkpointing": checkpointing}
    name = f"teacher bf16, ZeRO-3 x 2 {'offload ' * offload}{'gradient checkpointing' * checkpointing}"
    asked = case(smollm2, "teacher", "bf16", 2, **place)
    assert compare(asked, tmp_path, name) == pytest.approx(1, abs=TOLERANCE)
