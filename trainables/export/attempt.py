"""One attempt at factorising the change of a model, as the trainables that export something begin: both do this alike.

Finished layers lie among the attempt's checkpoints. The checkpoint `step-N`, an empty folder, says that N of them are
whole; a later attempt links what an earlier one has finished.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.base import Context, InputError, Progress
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
class Opened:
    """Two checkpoints that fit, the base's layout, and the layers whose change is to be factorised."""

    pair: CheckpointPair
    layout: Layout
    targets: Sequence[Linear]

    @property
    def notes(self) -> list[str]:
        """What the headers tell of the tuned checkpoint that a reader of the result must know."""
        return _notes(self.pair, self.layout)

    def check_changed(self) -> None:
        """Raise InputError if no target changed; reads as far as the first difference, mostly a few megabytes."""
        owners = self.layout.by_name
        if any(self.pair.is_changed(owners[linear.weight]) for linear in self.targets):
            return
        other = next(filter(self.pair.is_changed, self.layout.parameters), None)
        said = f"the {self.pair.tuned.label} equals the base in every"
        if other is None:
            raise InputError(f"{said} tensor, so there is nothing to export: give the model that training ended with")
        raise InputError(
            f"{said} chosen layer ({len(self.targets)} of them), so there is nothing to export; it differs in "
            f"{other.name}: choose other layers"
        )


@dataclass(frozen=True)
class Factorised:
    """The targets with their spectra and factors, in the model's order, and what was left out."""

    targets: Sequence[Linear]
    layers: Sequence[LayerSpectrum]
    excluded: Sequence[Excluded]
    files: LayerFiles
    notes: Sequence[str]


def opened(
    context: Context, labels: Mapping[str, str], target_modules: str | Sequence[str], layers: Sequence[Sequence[str]]
) -> Opened:
    """Return the two checkpoints that the context gives, compared name by name, and the chosen layers.

    `labels` are the two roles, base and tuned, with what messages call them. Raises InputError for a pair that does not
    fit.
    """
    base, tuned = (Checkpoint(context.inputs[role], label) for role, label in labels.items())
    layout = read_layout(base.folder)
    targets = choose(select(layout, target_modules), layers)
    pair = CheckpointPair(base, tuned, device_of(context.place))
    pair.check(layout.parameters, targets=targets)
    return Opened(pair, layout, targets)


def factorised(context: Context, found: Opened, ranks: Ranks) -> Generator[Progress, None, Factorised]:
    """Factorise the change of every chosen layer; raises Stopped between two layers, InputError for NaN."""
    pair, layout, targets = found.pair, found.layout, found.targets
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
    return Factorised(targets, spectra, excluded(pair, layout, targets), files, found.notes)


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
    """Return what to beware of: a tuned checkpoint stored in less than fp32, or with another vocabulary.

    What the base's file holds is where training started, exactly, whatever it is stored in.
    """
    notes, label = [], pair.tuned.label
    _, dtypes = pair.dtypes(layout.parameters)
    if not {"F32", "F64"}.issuperset(dtypes):
        stored = f"the {label} is stored in {', '.join(dtypes)}"
        notes.append(f"note: {stored}; its rounding noise is part of dW and has full rank")
    sizes = next(filter(None, map(pair.rows, layout.parameters)), None)
    if sizes:
        more = f"the {label} has {sizes[1]} rows of vocabulary and the base {sizes[0]}"
        notes.append(f"note: {more}; an adapter adds none, and only the common rows are compared")
    return notes
