"""SmolLM2-135M and what the laptop scale's teacher makes of it: a real pair of checkpoints to measure with."""

from __future__ import annotations

import os
from pathlib import Path

from search_spaces.scales import LAPTOP
from tests.trainables.driver import drive
from trainables.base import Place


def trained_pair(folder: Path, **settings: object) -> tuple[Path, Path]:
    """Return base and teacher; they are those of EXPORT_BASE and EXPORT_TUNED, or fetched and trained (2 minutes).

    `settings` are the teacher's, in place of the scale's.
    """
    if "EXPORT_BASE" in os.environ:
        return Path(os.environ["EXPORT_BASE"]), Path(os.environ["EXPORT_TUNED"])
    inputs: dict[str, Path] = {}
    place = Place(cpus=os.cpu_count() or 1)
    for stage, config in (
        ("base_model", LAPTOP.base_model),
        ("dataset", LAPTOP.dataset),
        ("teacher", {**LAPTOP.training, **LAPTOP.teacher, **settings}),
    ):
        drive(stage, dict(config), folder / stage, inputs=dict(inputs), place=place)
        inputs[stage] = folder / stage
    return inputs["base_model"], inputs["teacher"]
