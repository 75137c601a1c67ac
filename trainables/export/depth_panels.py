"""Panels by depth: what a rank keeps, how large the change is, and which ranks were given, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.export.figure_style import GREY, Panel, depth_axis, say
from trainables.export.rank_panels import GROUP_LOOKS, NAMES, POOLED
from trainables.export.spectrum import LayerSpectrum, Spectrum, do_ranks_differ, energy, known_rank, relative_delta
from trainables.export.words import shorten, two_digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_ENERGY = 0.8
"""The heat map shows the rank whose pooled energy is nearest to this: there the layers differ visibly."""
ROW_HEIGHT = 0.17
LONGEST_TYPE = 14
MOST_MARKERS = 40
VISIBLE_NOISE = 0.03
"""The noise is drawn where it is at least this share of the panel's height."""

Cell = Callable[[list[LayerSpectrum]], float]


def energy_by_depth(spectrum: Spectrum) -> Panel | None:
    """Does a rank keep as much at every depth, in every type? None for fewer than two blocks."""
    known = known_rank(spectrum.layers, spectrum.rank)
    ranks = [rank for rank in spectrum.ranks if rank <= known]
    if len(spectrum.depths) < 2 or not spectrum.delta_norm or not ranks:
        return None
    rank = min(ranks, key=lambda rank: abs(energy(spectrum.layers, rank) - SHOWN_ENERGY))
    question = f"Does rank {rank} keep as much in every layer?"
    return _heat_map("energy_by_depth", question, spectrum, lambda layers: energy(layers, rank), f"energy_{rank}")


def ranks_by_depth(spectrum: Spectrum, ranks: Mapping[str, int] | None) -> Panel | None:
    """Which layers were given the rank? None where every layer has the same, or all that it has."""
    if ranks is None or len(spectrum.depths) < 2 or not do_ranks_differ(spectrum.layers, ranks):
        return None

    def mean(layers: list[LayerSpectrum]) -> float:
        return float(np.mean([ranks.get(layer.linear.name, 0) for layer in layers]))

    return _heat_map("ranks_by_depth", "Which layers were given how high a rank?", spectrum, mean, "rank")


def change_by_depth(spectrum: Spectrum) -> Panel | None:
    """Where did training change the weights most? None for fewer than two blocks, or where nothing changed."""
    depths = spectrum.depths
    if len(depths) < 2 or not spectrum.delta_norm:
        return None
    parts = spectrum.groups if len(spectrum.groups) > 1 else []
    rows = [
        (depth, name, f"{relative_delta(layers):.7g}", f"{_relative_noise(layers):.7g}")
        for name in [*parts, "all"]
        for depth in depths
        for layers in [_part(spectrum, depth, name)]
        if layers
    ]

    def draw(axes: Axes) -> None:
        for name in [*parts, "all"]:
            curve = [(depth, float(value)) for depth, part, value, _ in rows if part == name]
            look = GROUP_LOOKS[name] if name in parts else POOLED
            look = look if len(depths) <= MOST_MARKERS else {**look, "marker": ""}
            axes.plot(*zip(*curve, strict=True), label=NAMES.get(name, name if name in parts else "all layers"), **look)
        _draw_noise(axes, [(depth, float(noise)) for depth, part, _, noise in rows if part == "all"])
        axes.set_ylim(0, 1.25 * max(float(value) for _, _, value, _ in rows))
        depth_axis(axes, depths)
        axes.set_ylabel("||dW|| / ||W||")

    head = ["depth", "group", "relative_delta", "relative_noise"]
    question = "Where did training change the weights most?"
    detail = f"pooled over the layers of a block, {_shown(spectrum)}"
    return Panel("change_by_depth", question, detail, draw, head, rows, legend_at="upper center")


def _part(spectrum: Spectrum, depth: int, name: str) -> list[LayerSpectrum]:
    return [layer for layer in spectrum.at_depth(depth) if name in ("all", layer.group)]


def _relative_noise(layers: Sequence[LayerSpectrum]) -> float:
    """Return the pooled noise over ||W||."""
    weight = math.sqrt(sum(layer.weight_norm**2 for layer in layers))
    return math.sqrt(sum(layer.noise_norm**2 for layer in layers)) / weight if weight else 0.0


def _draw_noise(axes: Axes, curve: Sequence[tuple[int, float]]) -> None:
    """Draw the noise where it would be seen; say how far below it is where not."""
    highest = max(noise for _, noise in curve)
    if highest > VISIBLE_NOISE * axes.get_ylim()[1]:
        axes.plot(*zip(*curve, strict=True), color=GREY, linestyle="--", linewidth=0.9, label="rounding noise alone")
    elif highest:
        say(axes, f"rounding noise: {two_digits(highest)} at most", place=(0.03, 0.05))


def _shown(spectrum: Spectrum) -> str:
    """Return the n, and how many layers are in no block and so not shown."""
    outside = sum(layer.depth is None for layer in spectrum.layers)
    inside = len(spectrum.layers) - outside
    return f"{inside} layers" + (f", {outside} outside the blocks not shown" if outside else "")


def _heat_map(name: str, question: str, spectrum: Spectrum, cell: Cell, value: str) -> Panel:
    """Return a map of depth against type; a type that a block lacks stays grey."""
    depths, types = spectrum.depths, [kind for kind in spectrum.types if _has_depth(spectrum.of_type(kind))]
    cells = {
        (kind, depth): cell(layers)
        for kind in types
        for depth in depths
        for layers in [[layer for layer in spectrum.of_type(kind) if layer.depth == depth]]
        if layers
    }
    first = depths[0]
    values = np.full((len(types), depths[-1] - first + 1), np.nan)
    for (kind, depth), found in cells.items():
        values[types.index(kind), depth - first] = found

    def draw(axes: Axes) -> None:
        _draw_map(axes, values, first, value.replace("_", " at rank "))
        axes.set_yticks(range(len(types)), [shorten(kind, LONGEST_TYPE) for kind in types])
        depth_axis(axes, depths)

    rows = [(kind, depth, f"{found:.7g}") for (kind, depth), found in cells.items()]
    height = 1.1 + ROW_HEIGHT * max(len(types), 4)
    detail = f"{_shown(spectrum)} by block and type"
    return Panel(name, question, detail, draw, ["type", "depth", value], rows, height, is_map=True)


def _has_depth(layers: Sequence[LayerSpectrum]) -> bool:
    return any(layer.depth is not None for layer in layers)


def _draw_map(axes: Axes, values: NDArray[np.float64], first: int, label: str) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    colours = colormaps["cividis"].with_extremes(bad="#DDDDDD")
    extent = (first - 0.5, first + values.shape[1] - 0.5, values.shape[0] - 0.5, -0.5)
    image = axes.imshow(values, aspect="auto", interpolation="nearest", cmap=colours, extent=extent)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    place = axes.inset_axes((1.02, 0, 0.035, 1))
    bar = axes.figure.colorbar(image, cax=place, label=label, ticks=MaxNLocator(5))
    bar.outline.set_visible(False)
