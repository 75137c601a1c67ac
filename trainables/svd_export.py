"""Factorises what training did to a model: the leading singular triplets of dW, for every linear layer, once.

One export serves every rank up to its own, because truncated SVDs nest. Both checkpoints are read, and the factors
written, one tensor at a time; a pair that does not fit is refused before the first factorisation. An export that
was cut off begins again: it takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from trainables.base import Config, Context, InputError, Metrics, Progress, Stopped, Trainable
from trainables.checkpoint_files import difference, read_headers
from trainables.targets import (
    ALL_LINEAR,
    Layout,
    Linear,
    check_targets,
    depth,
    layer_types,
    linear_shapes,
    read_layout,
    select,
)

if TYPE_CHECKING:
    from trainables.export.checkpoint_pair import CheckpointPair
    from trainables.export.spectrum import Excluded, LayerSpectrum, Spectrum

SMALLEST_EXPORT = 64
"""Studies export at least this rank whatever the model (contract C1), so it is no mistake on a smaller one."""


class SvdExportConfig(Config):
    """Which layers, and how many singular triplets of each."""

    rank: int = Field(64, ge=1, description="singular triplets per layer; a smaller layer gives all it has")
    target_modules: str | list[str] = Field(ALL_LINEAR, description="as PEFT reads it: all-linear, regex or names")


def check(config: SvdExportConfig, inputs: Mapping[str, Path]) -> None:
    """Raise InputError for targets that match nothing, a rank no layer has, or a teacher of another shape."""
    if "base_model" not in inputs:
        return
    base = read_headers(inputs["base_model"])
    shapes = linear_shapes(base)
    check_targets(config.target_modules, shapes)
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
    """Write the factors layer by layer, then the report on what they hold and what they cannot."""
    from trainables.export.spectrum import Spectrum
    from trainables.training.models import set_threads

    check(config, context.inputs)
    set_threads(context.place)
    layout = read_layout(context.inputs["base_model"])
    targets = select(layout, config.target_modules)
    pair = _open(context)
    pair.check(layout.parameters)
    layers: list[LayerSpectrum] = []
    yield Progress(0, len(targets))
    for layer in _factorise(pair, layout, targets, config.rank, context):
        layers.append(layer)
        yield Progress(len(layers), len(targets))
    spectrum = Spectrum(layers, _excluded(pair, layout, targets), config.rank)
    _write_report(context, spectrum, _notes(pair, layout))
    return spectrum.metrics()


def _open(context: Context) -> CheckpointPair:
    from trainables.export.checkpoint_pair import Checkpoint, CheckpointPair
    from trainables.training.models import device_of

    base, teacher = (Checkpoint(context.inputs[role], label) for role, label in ROLES.items())
    return CheckpointPair(base, teacher, device_of(context.place))


def _factorise(
    pair: CheckpointPair, layout: Layout, targets: Sequence[Linear], rank: int, context: Context
) -> Iterator[LayerSpectrum]:
    """Write each layer's factors and yield its spectrum; raises Stopped between two layers."""
    import numpy as np

    from trainables.export.spectrum import LayerSpectrum
    from trainables.linalg.factors import FactorWriter
    from trainables.linalg.truncated import truncated_svd

    parameters = {name: parameter for parameter in layout.parameters for name in parameter.names}
    types = layer_types([linear.name for linear in targets])
    shapes = {linear.name: (linear.out_features, linear.in_features, linear.rank(rank)) for linear in targets}
    with FactorWriter(context.output, shapes) as writer:
        for linear in targets:
            if context.stop_requested():
                raise Stopped(f"before {linear.name}; the export starts again")
            change = pair.change(parameters[linear.weight])
            delta = change.delta.T if linear.is_transposed else change.delta
            found = truncated_svd(delta, linear.rank(rank))
            writer.add(linear.name, found.factors)
            sigma = found.factors.s.cpu().numpy().astype(np.float64)
            where = types[linear.name], depth(linear.name)
            norms = change.delta_norm, change.weight_norm, change.noise_norm
            yield LayerSpectrum(linear, *where, sigma, *norms, found.certificate)


def _excluded(pair: CheckpointPair, layout: Layout, targets: Sequence[Linear]) -> list[Excluded]:
    """Return every tensor that is no target's weight, with the norm of its change; tied tensors once."""
    from trainables.export.spectrum import Excluded

    factorised = {linear.weight for linear in targets}
    rest = [parameter for parameter in layout.parameters if not factorised & set(parameter.names)]
    return [Excluded(parameter.name, pair.change(parameter).delta_norm) for parameter in rest]


def _notes(pair: CheckpointPair, layout: Layout) -> list[str]:
    """Return a warning where a checkpoint is stored in less than fp32: its rounding noise is part of dW."""
    notes = []
    for label, dtypes in zip(ROLES.values(), pair.dtypes(layout.parameters), strict=True):
        if not {"F32", "F64"}.issuperset(dtypes):
            stored = ", ".join(dtypes)
            notes.append(f"note: the {label} is stored in {stored}; its rounding noise is part of dW and has full rank")
    return notes


def _write_report(context: Context, spectrum: Spectrum, notes: Sequence[str]) -> None:
    from trainables.export import spectrum_figure, spectrum_report

    folder = context.output
    spectrum_report.write_layers(folder / "layers.csv", spectrum)
    spectrum_report.write_spectrum(folder / "spectrum.csv", spectrum)
    spectrum_figure.draw(folder / "figure.png", spectrum)
    text = spectrum_report.report_text(spectrum, notes)
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    facts = spectrum_report.facts(spectrum, notes)
    (folder / "export.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    context.log(text)


ROLES = {"base_model": "base", "teacher": "teacher"}
"""The inputs, and what messages call them."""

TRAINABLE = Trainable(
    name="svd_export",
    version=1,
    config=SvdExportConfig,
    run=run,
    roles=tuple(ROLES),
    check=check,
    cost_s=lambda config: 20.0,
    sources=("linalg", "export", "targets.py", "checkpoint_files.py"),
)
