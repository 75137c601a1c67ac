"""A real model in pieces: SmolLM2-135M, all parameters, ZeRO-3 over two gloo workers, against one process in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from search_spaces.scales import LAPTOP
from tests.benchmarks.smollm2 import fetched
from tests.trainables.driver import execute
from tests.trainables.gang import drive_gang
from trainables.base import Place

SETTINGS: dict[str, Any] = {**LAPTOP.training, **LAPTOP.teacher, "steps": 3, "eval_every": 3, "eval_items": 8}
SETTINGS |= {"precision": "fp32", "batch_size": 4}
TOLERANCE = 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_teacher_in_pieces_takes_the_course_of_one_process_and_is_saved_whole(tmp_path: Path) -> None:
    inputs = fetched(tmp_path)
    alone = execute("teacher", SETTINGS, tmp_path / "alone", inputs=inputs, place=Place(cpus=2))
    pieces = Place(workers=2, zero_stage=3, device="cpu", gradient_checkpointing=True)
    gang = drive_gang("teacher", SETTINGS, tmp_path / "gang", inputs=inputs, place=pieces)
    for name in ("loss", "eval_loss"):
        assert gang.column(name) == pytest.approx(alone.column(name), abs=TOLERANCE), name
    # torch adds up the squares of 28 million numbers in fp32, DeepSpeed in fp64.
    assert gang.column("grad_norm") == pytest.approx(alone.column("grad_norm"), rel=TOLERANCE)
    assert gang.column("loss")[-1] < gang.column("loss")[0]
    ours, theirs = (load_file(tmp_path / folder / "model.safetensors") for folder in ("gang", "alone"))
    base = load_file(inputs["base_model"] / "model.safetensors")
    assert {(name, value.shape) for name, value in ours.items()} == {(name, v.shape) for name, v in theirs.items()}
    for name, value in theirs.items():
        change = (value - base[name]).norm()
        assert (ours[name] - value).norm() <= 0.05 * change + 1e-6, name
    evaluate = {"precision": "fp32", "items": 8}
    losses = []
    for folder in ("gang", "alone"):
        subject = inputs | {"subject": tmp_path / folder}
        found = execute("evaluate", evaluate, tmp_path / f"{folder}-evaluated", inputs=subject, place=Place(cpus=2))
        losses.append(found.metrics["test_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE)
