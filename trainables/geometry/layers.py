"""A tested model against base and teacher, one layer at a time: the memory of a few matrices of the largest layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.base import kept_of_last
from trainables.export.checkpoint_pair import Checkpoint, CheckpointPair
from trainables.geometry.intruders import base_directions, count_intruders
from trainables.geometry.subjects import Subject, Whole, leading_directions, open_subject, read_weight
from trainables.geometry.subspaces import overlap
from trainables.linalg.truncated import full_precision
from trainables.targets import Linear, Parameter, layer_types, read_layout, select

CACHE = "singular vectors"


@dataclass(frozen=True)
class LayerGeometry:
    """What was found at one layer.

    delta_norm   ||W_teacher - W_base||_F
    distance     ||W_tested - W_teacher||_F
    overlap      mean squared cosine between the leading left singular subspaces of the two changes; None where
                 either changed nothing
    dimensions   of the two subspaces, tested model's and teacher's
    chance       the overlap that random subspaces of these dimensions have on average
    intruders    intruder dimensions among the ten leading ones of the tested model's weight
    """

    name: str
    type: str
    delta_norm: float
    distance: float
    overlap: float | None
    dimensions: tuple[int, int]
    chance: float
    intruders: int


@dataclass(frozen=True)
class Opened:
    """Base, teacher and the tested model, which fit each other, and the layers to compare."""

    pair: CheckpointPair
    subject: Subject
    parameters: Mapping[str, Parameter]
    targets: Sequence[Linear]
    rank: int
    known: MutableMapping[str, Tensor]
    """Singular vectors of base and teacher by layer, for the next subject of the same two."""

    def layers(self) -> Iterator[LayerGeometry]:
        """Yield the layers in the model's order."""
        types = layer_types([linear.name for linear in self.targets])
        for linear in self.targets:
            with torch.inference_mode(), full_precision():
                found = self._layer(linear, types[linear.name])
            yield found

    def _layer(self, linear: Linear, kind: str) -> LayerGeometry:
        parameter = self.parameters[linear.weight]
        base = read_weight(self.pair.base, linear, parameter, self.pair.device)
        tuned = self.subject.tuned(linear, parameter, base)
        known = self._known(f"base {linear.name}", lambda: base_directions(base))
        intruders = count_intruders(tuned, base, known)
        teacher = read_weight(self.pair.tuned, linear, parameter, self.pair.device)
        distance, delta = _norm(tuned - teacher), teacher - base
        rank = linear.rank(self.rank)
        theirs = self._known(f"teacher {rank} {linear.name}", lambda: leading_directions(delta, rank))
        ours = self.subject.left(linear, tuned - base, rank)
        sizes = ours.shape[1], theirs.shape[1]
        found = overlap(ours, theirs) if all(sizes) else None
        chance = max(sizes) / linear.out_features
        return LayerGeometry(linear.name, kind, _norm(delta), distance, found, sizes, chance, intruders)

    def _known(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        if key not in self.known:
            self.known[key] = compute().float().cpu()
        return self.known[key].to(self.pair.device, torch.float64)


def opened(
    inputs: Mapping[str, Path],
    target_modules: str | Sequence[str],
    *,
    rank: int | None,
    cut: int | None,
    device: torch.device,
    cache: MutableMapping[str, Any],
) -> Opened:
    """Return the checkpoints in the roles `base_model`, `teacher` and `subject`; raises InputError if they do not fit.

    `rank` is that of the subspaces; None: the one that the subject was trained or cut (`cut`) at, 16 of a whole model.
    `cache` keeps the singular vectors of the last base and teacher: 200 MB for 7 billion parameters.
    """
    base, teacher = Checkpoint(inputs["base_model"], "base"), Checkpoint(inputs["teacher"], "teacher")
    subject, layout = open_subject(inputs["subject"], cut), read_layout(base.folder)
    targets = select(layout, target_modules)
    pair = CheckpointPair(base, teacher, device)
    pair.check(layout.parameters, targets=targets)
    if isinstance(subject, Whole):
        CheckpointPair(base, subject.checkpoint, device).check(layout.parameters, targets=targets)
    vectors = kept_of_last(cache, CACHE, (inputs["base_model"], inputs["teacher"]))
    return Opened(pair, subject, layout.by_name, targets, rank or subject.rank, vectors)


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
