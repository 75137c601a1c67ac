"""A spectrum as files: one CSV row per layer, one per singular value, and a page of text."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from trainables.export.spectrum import LayerSpectrum, Spectrum, energy, error

MOST_EXCLUDED = 8
"""How many excluded tensors the text names; export.json has all."""


def write_layers(path: Path, spectrum: Spectrum) -> None:
    """Write one row per layer: shape, norms, and energy and error at each rank."""
    ranks = spectrum.ranks
    head = ["layer", "type", "depth", "out", "in", "delta_norm", "weight_norm", "relative_delta"]
    head += [f"{name}_{rank}" for name in ("energy", "error") for rank in ranks]
    _write_csv(path, head, (_layer_row(layer, ranks) for layer in spectrum.layers))


def write_spectrum(path: Path, spectrum: Spectrum) -> None:
    """Write one row per layer and singular value; `index` counts from 1."""
    rows = (
        (layer.linear.name, layer.type, index, f"{sigma:.7g}")
        for layer in spectrum.layers
        for index, sigma in enumerate(layer.sigma, start=1)
    )
    _write_csv(path, ["layer", "type", "index", "sigma"], rows)


def report_text(spectrum: Spectrum, notes: Sequence[str] = ()) -> str:
    """Return the page that says how large the change is, what each rank keeps of it, and what no factor holds."""
    return "\n".join(
        [*_summary(spectrum), *notes, "", *_by_rank(spectrum), "", *_by_type(spectrum), *_outside(spectrum)]
    )


def facts(spectrum: Spectrum, notes: Sequence[str] = ()) -> dict[str, object]:
    """Return what a program wants to know: rank, targets, and each excluded tensor's share of ||dW||^2."""
    total = spectrum.total or 1.0
    return {
        "rank": spectrum.rank,
        "delta_norm": spectrum.delta_norm,
        "targets": [layer.linear.name for layer in spectrum.layers],
        "excluded": {tensor.name: tensor.delta_norm**2 / total for tensor in spectrum.excluded},
        "outside_share": spectrum.outside_share,
        "notes": list(notes),
    }


def _layer_row(layer: LayerSpectrum, ranks: Sequence[int]) -> list[object]:
    linear = layer.linear
    norms = [f"{value:.7g}" for value in (layer.delta_norm, layer.weight_norm, layer.relative_delta)]
    energies = [f"{energy([layer], rank):.7f}" for rank in ranks]
    errors = [f"{error([layer], rank):.7f}" for rank in ranks]
    shape = [linear.out_features, linear.in_features]
    return [linear.name, layer.type, "" if layer.depth is None else layer.depth, *shape, *norms, *energies, *errors]


def _summary(spectrum: Spectrum) -> Iterator[str]:
    yield f"The change of {len(spectrum.layers)} linear layers, factorised at rank {spectrum.rank}"
    yield f"||dW|| = {spectrum.delta_norm:.4g}, ||dW|| / ||W|| = {spectrum.relative_delta:.3g}"
    yield f"{_percent(spectrum.outside_share)} of the model's ||dW||^2 lies outside these layers"
    unchanged = [layer.linear.name for layer in spectrum.layers if not layer.delta_norm]
    if unchanged:
        yield f"{len(unchanged)} layers did not change at all, first {unchanged[0]}"


def _by_rank(spectrum: Spectrum) -> Iterator[str]:
    metrics = spectrum.metrics()
    yield f"{'rank':>6} {'energy':>8} {'error':>8} {'energy, mean over layers':>26}"
    for rank in spectrum.ranks:
        pooled, lost, mean = (metrics[f"{name}_{rank}"] for name in ("energy", "error", "energy_mean"))
        yield f"{rank:>6} {pooled:>8.4f} {lost:>8.4f} {mean:>26.4f}"
    yield "energy: sum of kept sigma^2 / sum of ||dW||_F^2;  error: sqrt(1 - energy)"


def _by_type(spectrum: Spectrum) -> Iterator[str]:
    ranks = spectrum.ranks[::2]
    width = max(len("type"), *(len(name) for name in spectrum.types))
    heads = "".join(f"{f'r={rank}':>8}" for rank in ranks)
    yield f"{'type':<{width}} {'layers':>7} {'||dW||/||W||':>13} {'of ||dW||^2':>12}   energy at{heads}"
    for name in spectrum.types:
        part = Spectrum(spectrum.of_type(name), (), spectrum.rank)
        share = part.delta_norm**2 / spectrum.total if spectrum.total else 0.0
        energies = "".join(f"{energy(part.layers, rank):>8.3f}" for rank in ranks)
        yield (
            f"{name:<{width}} {len(part.layers):>7} {part.relative_delta:>13.3g} {_percent(share):>12}"
            f"   {'':9}{energies}"
        )


def _outside(spectrum: Spectrum) -> Iterator[str]:
    changed = sorted((tensor for tensor in spectrum.excluded if tensor.delta_norm), key=lambda item: -item.delta_norm)
    if not changed:
        return
    yield ""
    yield "outside the factorised layers (an adapter on them cannot hold this)"
    for tensor in changed[:MOST_EXCLUDED]:
        yield f"{_percent(tensor.delta_norm**2 / spectrum.total):>9}  {tensor.name}"
    rest = changed[MOST_EXCLUDED:]
    if rest:
        share = sum(tensor.delta_norm**2 for tensor in rest) / spectrum.total
        yield f"{_percent(share):>9}  {len(rest)} more tensors"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        writer.writerows(rows)
