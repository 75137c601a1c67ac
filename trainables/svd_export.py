"""Factorises what training did to a model: the leading singular triplets of dW, for every linear layer, once.

One export serves every rank up to its own, because truncated SVDs nest. Both checkpoints are read tensor by tensor,
and a pair that does not fit is refused before the first factorisation. Each finished layer is kept among the attempt's
checkpoints: whatever cuts an export off, the next attempt computes only what no earlier one has finished.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import Field

from trainables.base import Config, Context, InputError, Metrics, Progress, Trainable
from trainables.checkpoint_files import difference, read_headers
from trainables.export.ranks import ByRank
from trainables.targets import (
    ALL_LINEAR,
    Layout,
    Linear,
    check_targets,
    choose,
    linear_shapes,
    read_layout,
    select,
)

if TYPE_CHECKING:
    from trainables.export.checkpoint_pair import CheckpointPair
    from trainables.export.spectrum import LayerSpectrum, Spectrum

SMALLEST_EXPORT = 64
"""Studies export at least this rank whatever the model (contract C1), so it is no mistake on a smaller one."""


class SvdExportConfig(Config):
    """Which layers, and how many singular triplets of each."""

    rank: int = Field(64, ge=1, description="singular triplets per layer; a smaller layer gives all it has")
    target_modules: str | list[str] = Field(ALL_LINEAR, description="as PEFT reads it: all-linear, regex or names")
    layers: list[list[str]] = Field(
        default_factory=list,
        description="of these, the layers with one of each list's depths, types, names or globs; none: all",
    )

    def identity(self) -> dict[str, Any]:
        """Return what decides the result: a choice of layers counts where one is made."""
        return {name: value for name, value in super().identity().items() if name != "layers" or value}


def check(config: SvdExportConfig, inputs: Mapping[str, Path]) -> None:
    """Raise InputError for targets that match nothing, a rank no layer has, or a teacher of another shape."""
    if "base_model" not in inputs:
        return
    base = read_headers(inputs["base_model"])
    shapes = linear_shapes(base)
    check_targets(config.target_modules, shapes)
    choose([Linear(name, shape[0], shape[1]) for name, shape in shapes.items()], config.layers)
    largest = max(min(shape) for shape in shapes.values())
    if config.rank > max(SMALLEST_EXPORT, 1 << (largest - 1).bit_length()):
        raise InputError(
            f"svd_export rank {config.rank}, made for the largest student.rank, is above what any layer of the base "
            f"model has; use a student.rank of at most {largest}"
        )
    if "teacher" in inputs:
        differs = difference(read_headers(inputs["teacher"]), base)
        if differs:
            raise InputError(f"the teacher is no checkpoint of the base model: {differs}")


def run(config: SvdExportConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Factorise layer by layer, then write the factors and the report on what they hold and what they cannot."""
    from trainables.export.factorise import excluded, factorise
    from trainables.export.layer_files import LayerFiles
    from trainables.export.spectrum import Spectrum
    from trainables.export.spectrum_report import write_report
    from trainables.linalg.factors import save_factors

    check(config, context.inputs)
    layout = read_layout(context.inputs["base_model"])
    targets = choose(select(layout, config.target_modules), config.layers)
    pair = _open(context)
    pair.check(layout.parameters, targets=targets)
    files = LayerFiles(context.checkpoints / LAYERS)
    if context.resume_from is not None:
        files.adopt(context.resume_from.parent / LAYERS)
    layers = yield from _marked(
        factorise(
            pair,
            layout,
            targets,
            ByRank(rank=config.rank),
            files.folder,
            place=context.place,
            stop_requested=context.stop_requested,
            log=context.log,
        ),
        context.checkpoints,
    )
    spectrum = Spectrum(layers, excluded(pair, layout, targets), config.rank)
    shapes = {linear.name: (linear.out_features, linear.in_features, linear.rank(config.rank)) for linear in targets}
    factors = ((name, files[name].truncated(rank)) for name, (_, _, rank) in shapes.items())
    save_factors(context.output, shapes, factors)
    context.log(write_report(context.output, spectrum, notes=_notes(pair, layout)))
    return spectrum.metrics() | _certainty(spectrum)


def _open(context: Context) -> CheckpointPair:
    from trainables.export.checkpoint_pair import Checkpoint, CheckpointPair
    from trainables.training.models import device_of

    base, teacher = (Checkpoint(context.inputs[role], label) for role, label in ROLES.items())
    return CheckpointPair(base, teacher, device_of(context.place))


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


def _certainty(spectrum: Spectrum) -> dict[str, float]:
    """Return how many layers took each route, and the chance that a bound is wrong."""
    from trainables.linalg.certificate import Route

    routes = {f"layers_{route.replace('-', '_')}": spectrum.routes.get(route, 0) for route in get_args(Route)}
    return {**routes, "failure_probability": spectrum.failure_probability}


def _notes(pair: CheckpointPair, layout: Layout) -> list[str]:
    """Return a warning where a checkpoint is stored in less than fp32: its rounding noise is part of dW."""
    notes = []
    for label, dtypes in zip(ROLES.values(), pair.dtypes(layout.parameters), strict=True):
        if not {"F32", "F64"}.issuperset(dtypes):
            stored = ", ".join(dtypes)
            notes.append(f"note: the {label} is stored in {stored}; its rounding noise is part of dW and has full rank")
    return notes


ROLES = {"base_model": "base", "teacher": "teacher"}
"""The inputs, and what messages call them."""
LAYERS = "layers"
"""The folder of finished layers among an attempt's checkpoints."""

TRAINABLE = Trainable(
    name="svd_export",
    version=2,
    config=SvdExportConfig,
    run=run,
    roles=tuple(ROLES),
    check=check,
    cost_s=lambda config: 20.0,
    sources=("linalg", "export", "targets.py", "checkpoint_files.py"),
)
