"""One attempt at factorising the change of a model, as the trainables that export something begin: both do this alike.

Finished layers lie among the attempt's checkpoints. The checkpoint `step-N`, an empty folder, says that N of them are
whole; a later attempt links what an earlier one has finished.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.base import Context, Progress
from trainables.export.checkpoint_pair import Checkpoint, CheckpointPair
from trainables.export.factorise import excluded, factorise
from trainables.export.layer_files import LayerFiles
from trainables.export.ranks import Ranks
from trainables.export.spectrum import Excluded, LayerSpectrum
from trainables.targets import Layout, Linear, choose, read_layout, select
from trainables.training.models import device_of

LAYERS = "layers"
"""The folder of finished layers among an attempt's checkpoints."""


@dataclass(frozen=True)
class Factorised:
    """The targets with their spectra and factors, in the model's order, and what was left out."""

    targets: Sequence[Linear]
    layers: Sequence[LayerSpectrum]
    excluded: Sequence[Excluded]
    files: LayerFiles
    notes: Sequence[str]


def factorised(
    context: Context,
    labels: Mapping[str, str],
    ranks: Ranks,
    target_modules: str | Sequence[str],
    layers: Sequence[Sequence[str]],
) -> Generator[Progress, None, Factorised]:
    """Compare the two checkpoints that the context gives, and factorise the change of every chosen layer.

    `labels` are the two roles, base and tuned, with what messages call them. Raises InputError for a pair that does not
    fit, before the first factorisation; Stopped between two layers.
    """
    base, tuned = (Checkpoint(context.inputs[role], label) for role, label in labels.items())
    layout = read_layout(base.folder)
    targets = choose(select(layout, target_modules), layers)
    pair = CheckpointPair(base, tuned, device_of(context.place))
    pair.check(layout.parameters, targets=targets)
    files = LayerFiles(context.checkpoints / LAYERS)
    if context.resume_from is not None:
        files.adopt(context.resume_from.parent / LAYERS)
    steps = factorise(
        pair,
        layout,
        targets,
        ranks,
        files.folder,
        place=context.place,
        stop_requested=context.stop_requested,
        log=context.log,
    )
    spectra = yield from _marked(steps, context.checkpoints)
    return Factorised(targets, spectra, excluded(pair, layout, targets), files, _notes(pair, layout))


def _marked(
    steps: Generator[Progress, None, list[LayerSpectrum]], checkpoints: Path
) -> Generator[Progress, None, list[LayerSpectrum]]:
    """Pass the steps on, and keep the checkpoint `step-N`: N layers are whole in the folder beside it."""
    newest: Path | None = None
    with contextlib.closing(steps):
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                layers: list[LayerSpectrum] = end.value
                return layers
            if progress.step:
                newest = _mark(checkpoints / f"step-{progress.step}", newest)
            yield progress


def _mark(checkpoint: Path, before: Path | None) -> Path:
    """Make a checkpoint, which costs no copy of anything, and remove the one before it."""
    checkpoint.mkdir(exist_ok=True)
    if before not in (None, checkpoint):
        before.rmdir()
    return checkpoint


def _notes(pair: CheckpointPair, layout: Layout) -> list[str]:
    """Return a warning where a checkpoint is stored in less than fp32: its rounding noise is part of dW."""
    notes = []
    for checkpoint, dtypes in zip((pair.base, pair.tuned), pair.dtypes(layout.parameters), strict=True):
        if not {"F32", "F64"}.issuperset(dtypes):
            stored = f"the {checkpoint.label} is stored in {', '.join(dtypes)}"
            notes.append(f"note: {stored}; its rounding noise is part of dW and has full rank")
    return notes
