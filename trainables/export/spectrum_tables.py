"""A spectrum as CSV: one row per layer, per singular value, per block, and per rank whose loss was measured."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from trainables.export.spectrum import (
    FunctionalGain,
    LayerSpectrum,
    Spectrum,
    delta_norm,
    energy,
    error,
    gain_share,
    relative_delta,
)


def write_layers(path: Path, spectrum: Spectrum, kept: Mapping[str, int] | None = None) -> None:
    """Write one row per layer: shape, norms, noise, certificate, and energy and error at each rank."""
    ranks = spectrum.ranks
    head = ["layer", "type", "group", "depth", "out", "in", "delta_norm", "weight_norm", "relative_delta"]
    head += ["noise_norm", "noise_sigma", "near_noise", "route", "certified_bound", "failure_probability"]
    head += ["rank_known", "rank_kept", *(f"{name}_{rank}" for name in ("energy", "error") for rank in ranks)]
    write_csv(path, head, (_layer_row(layer, ranks, kept) for layer in spectrum.layers))


def write_spectrum(path: Path, spectrum: Spectrum) -> None:
    """Write one row per layer and singular value, with its certified bounds; `index` counts from 1."""
    rows = (
        (layer.linear.name, layer.type, index, *(_number(value, 10) for value in values))
        for layer in spectrum.layers
        for index, values in enumerate(_with_bounds(layer), start=1)
    )
    write_csv(path, ["layer", "type", "index", "sigma", "lower", "upper"], rows)


def write_depths(path: Path, spectrum: Spectrum) -> None:
    """Write one row per block for all its layers, and one for each group of them."""
    ranks = spectrum.ranks
    head = ["depth", "group", "layers", "delta_norm", "relative_delta", *(f"energy_{rank}" for rank in ranks)]
    write_csv(path, head, _depth_rows(spectrum, ranks))


def write_gains(path: Path, gains: Sequence[FunctionalGain]) -> None:
    """Write one row per loss: at which rank, the energy kept there, and the share of the tuned model's gain."""
    rows = (
        [gain.label, _or_empty(gain.rank), _number(gain.energy), _number(gain.loss), _number(share)]
        for gain in gains
        for share in [gain_share(gains, gain.loss)]
    )
    write_csv(path, ["label", "rank", "energy", "loss", "gain_kept"], rows)


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with its head."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        writer.writerows(rows)


def _layer_row(layer: LayerSpectrum, ranks: Sequence[int], kept: Mapping[str, int] | None) -> list[object]:
    linear, certificate = layer.linear, layer.certificate
    where = [linear.name, layer.type, layer.group, _or_empty(layer.depth), linear.out_features, linear.in_features]
    norms = [layer.delta_norm, layer.weight_norm, layer.relative_delta, layer.noise_norm, layer.noise_sigma]
    certainty = [certificate.route, _number(certificate.bound), _number(certificate.failure_probability)]
    own = layer.known if kept is None else kept.get(linear.name, 0)
    energies = [f"{energy([layer], rank):.7f}" for rank in ranks]
    errors = [f"{error([layer], rank):.7f}" for rank in ranks]
    near = int(layer.is_near_noise)
    return [*where, *map(_number, norms), near, *certainty, layer.known, own, *energies, *errors]


def _with_bounds(layer: LayerSpectrum) -> Iterator[tuple[float | None, ...]]:
    """Yield sigma, lower and upper; a certificate may know of fewer values, or of more, than were kept."""
    certificate, known = layer.certificate, layer.known
    yield from zip_longest(layer.sigma, certificate.lower[:known], certificate.upper[:known])


def _depth_rows(spectrum: Spectrum, ranks: Sequence[int]) -> Iterator[list[object]]:
    for depth in spectrum.depths:
        block = spectrum.at_depth(depth)
        for name in ["all", *spectrum.groups]:
            layers = [layer for layer in block if name in ("all", layer.group)]
            if layers:
                norms = map(_number, (delta_norm(layers), relative_delta(layers)))
                yield [depth, name, len(layers), *norms, *(f"{energy(layers, rank):.7f}" for rank in ranks)]


def _number(value: float | None, digits: int = 7) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def _or_empty(value: int | None) -> int | str:
    return "" if value is None else value
