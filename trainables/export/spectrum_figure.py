"""Four panels of a spectrum: singular values per layer type, energy and error against rank, energy by depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables.export.spectrum import LayerSpectrum, Spectrum, by_depth, energy, error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
"""Okabe and Ito's palette; black is kept for all layers together (https://jfly.uni-koeln.de/color)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
DEPTH_CURVES = 4
"""How many ranks the panel by depth compares."""


def draw(path: Path, spectrum: Spectrum) -> None:
    """Write the figure as PNG, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.8), layout="constrained")
    FigureCanvasAgg(figure)
    values, energies, errors, depths = figure.subplots(2, 2).flat
    _draw_values(values, spectrum)
    _draw_against_rank(energies, spectrum, energy)
    energies.set(title="How much of ||dW||² does a rank keep?", ylabel="energy", ylim=(0, 1.02))
    _draw_against_rank(errors, spectrum, error)
    errors.set(title="How far is that from dW?", ylabel="relative error, √(1 − energy)", ylim=(0, 1.02))
    _draw_by_depth(depths, spectrum)
    for panel in (values, energies, errors, depths):
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = energies.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), frameon=False)
    figure.suptitle(
        f"How low is the rank of the change?   {len(spectrum.layers)} layers, "
        f"||dW|| / ||W|| = {spectrum.relative_delta:.2g}, {100 * spectrum.outside_share:.2g} % of ||dW||² outside them"
    )
    figure.savefig(path, dpi=130)


def _draw_values(panel: Axes, spectrum: Spectrum) -> None:
    """Draw each singular value relative to its layer's largest, the median over the layers of a type."""
    for name, style in _type_styles(spectrum):
        rows = [layer.sigma / layer.sigma[0] for layer in spectrum.of_type(name) if layer.sigma[0] > 0]
        if rows:
            shortest = min(len(row) for row in rows)
            median = np.median([row[:shortest] for row in rows], axis=0)
            panel.plot(range(1, shortest + 1), np.where(median > 0, median, np.nan), **{**style, "marker": ""})
    panel.set_yscale("log")
    panel.set(title="How fast do the singular values fall?", ylabel="σᵢ / σ₁, median over layers")
    _rank_axis(panel, spectrum.ranks, "index i of the singular value")


def _draw_against_rank(panel: Axes, spectrum: Spectrum, value: Callable[[Sequence[LayerSpectrum], int], float]) -> None:
    ranks = spectrum.ranks
    for name, style in _type_styles(spectrum):
        layers = spectrum.of_type(name)
        panel.plot(ranks, [value(layers, rank) for rank in ranks], label=name, **style)
    pooled = [value(spectrum.layers, rank) for rank in ranks]
    panel.plot(ranks, pooled, color="black", linewidth=2.4, label="all layers, pooled", zorder=5)
    _rank_axis(panel, ranks, "rank")


def _draw_by_depth(panel: Axes, spectrum: Spectrum) -> None:
    from matplotlib.ticker import MaxNLocator

    ranks = spectrum.ranks[::-2][:DEPTH_CURVES][::-1]
    for shade, rank in zip(np.linspace(0.7, 0.0, len(ranks)), ranks, strict=True):
        curve = by_depth(spectrum.layers, lambda layers, rank=rank: energy(layers, rank))  # type: ignore[misc]
        panel.plot(list(curve), list(curve.values()), color=str(shade), marker="o", markersize=3.5, linewidth=1.4)
        if curve:
            first, last = min(curve), max(curve)
            beside: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
            panel.annotate(f"rank {rank}", (last, curve[last]), **beside)
            panel.set_xlim(first - 0.5, last + 0.5 + 0.14 * (last - first + 1))
    panel.set(title="Is it the same at every depth?", xlabel="block", ylabel="energy", ylim=(0, 1.02))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _type_styles(spectrum: Spectrum) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each layer type with its colour, marker and dash; beyond seven types the dash changes."""
    for index, name in enumerate(spectrum.types):
        turn, place = divmod(index, len(COLOURS))
        dash = DASHES[turn % len(DASHES)]
        look = {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": dash}
        yield name, {**look, "linewidth": 1.3, "markersize": 4}


def _rank_axis(panel: Axes, ranks: Sequence[int], label: str) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks(list(ranks), [str(rank) for rank in ranks])
    panel.minorticks_off()
    panel.set_xlabel(label)
