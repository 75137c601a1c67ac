"""What the record and a table keep of a model's geometry: pooled, per layer type, and layer by layer."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.geometry.layers import LayerGeometry

FILE = "geometry.csv"
HEAD = (
    "layer", "type", "delta_norm", "distance", "subspace_overlap", "dimensions", "teacher_dimensions", "chance",
    "intruder_dimensions",
)  # fmt: skip


def metrics(layers: Sequence[LayerGeometry]) -> dict[str, float | None]:
    """Return distance, overlap (with what chance would give) and intruders over all layers, then by layer type.

    distance_to_teacher      ||W_tested - W_teacher||_F / ||W_teacher - W_base||_F, squares summed over the layers:
                             0 at the teacher, 1 at the base; None where the teacher changed nothing
    subspace_overlap         mean over the layers that both changed; None where there is none
    subspace_overlap_chance  the same of random subspaces
    intruder_dimensions      mean count per matrix
    """
    found = {name: measure(layers) for name, measure in MEASURES.items()}
    found["subspace_overlap_chance"] = _mean([layer.chance for layer in layers if layer.overlap is not None])
    for kind in dict.fromkeys(layer.type for layer in layers):
        own = [layer for layer in layers if layer.type == kind]
        found |= {f"{name}_{kind}": measure(own) for name, measure in MEASURES.items()}
    return found


def _distance(layers: Sequence[LayerGeometry]) -> float | None:
    whole = math.sqrt(sum(layer.delta_norm**2 for layer in layers))
    return math.sqrt(sum(layer.distance**2 for layer in layers)) / whole if whole else None


def _overlap(layers: Sequence[LayerGeometry]) -> float | None:
    return _mean([layer.overlap for layer in layers if layer.overlap is not None])


def _intruders(layers: Sequence[LayerGeometry]) -> float | None:
    return _mean([layer.intruders for layer in layers])


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


MEASURES: dict[str, Callable[[Sequence[LayerGeometry]], float | None]] = {
    "distance_to_teacher": _distance,
    "subspace_overlap": _overlap,
    "intruder_dimensions": _intruders,
}


def write_layers(folder: Path, layers: Sequence[LayerGeometry]) -> None:
    """Write `geometry.csv`, one row per layer."""
    with (folder / FILE).open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(HEAD)
        for item in layers:
            known = (item.name, item.type, item.delta_norm, item.distance, item.overlap, *item.dimensions)
            table.writerow([*known, item.chance, item.intruders])
