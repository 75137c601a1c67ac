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
    if "EXPORT_BASE" in os.environ and "EXPORT_TUNED" in os.environ:
        return Path(os.environ["EXPORT_BASE"]), Path(os.environ["EXPORT_TUNED"])
    inputs = fetched(folder)
    place = Place(cpus=os.cpu_count() or 1)
    drive("teacher", {**LAPTOP.training, **LAPTOP.teacher, **settings}, folder / "teacher", inputs=inputs, place=place)
    return inputs["base_model"], folder / "teacher"


def fetched(folder: Path) -> dict[str, Path]:
    """Return base model and dataset of the laptop scale, by role; the base is that of EXPORT_BASE, or fetched."""
    base = Path(os.environ.get("EXPORT_BASE", folder / "base_model"))
    if "EXPORT_BASE" not in os.environ:
        drive("base_model", dict(LAPTOP.base_model), base)
    drive("dataset", dict(LAPTOP.dataset), folder / "dataset", inputs={"base_model": base})
    return {"base_model": base, "dataset": folder / "dataset"}
