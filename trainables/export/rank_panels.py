"""Panels against rank: how fast singular values fall, what a rank keeps of the change, and what it loses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainables.export.figure_style import BLACK, GREY, MARKERS, Panel, Row, log_axis, rank_axis, say, styles
from trainables.export.spectrum import LayerSpectrum, Spectrum, energy, error, known_rank
from trainables.export.words import two_digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEGLIGIBLE = 1e-7
"""Singular values below this share of the largest are rounding in fp32, and are not drawn."""
FAR_BELOW = 20
"""Noise this many times below the smallest value drawn is told and not drawn, as the axis would be mostly empty."""
ERROR_TICKS = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_ERROR = 1e-3
POOLED: dict[str, Any] = {"color": BLACK, "linewidth": 1.8, "zorder": 5}
GROUP_LOOKS: dict[str, dict[str, Any]] = {
    "attention": {"color": "#0072B2", "marker": "o"},
    "mlp": {"color": "#D55E00", "marker": "s"},
    "other": {"color": "#009E73", "marker": "^"},
}
NAMES = {"mlp": "MLP"}


def layers_of(spectrum: Spectrum) -> str:
    """Return the n of a figure's title."""
    count = len(spectrum.layers)
    return f"{count} layer{'' if count == 1 else 's'}"


# -- singular values --------------------------------------------------------------------------------------


def singular_values(spectrum: Spectrum) -> Panel:
    """How fast do the singular values fall, and where does rounding noise begin?"""
    middle = {name: _median(spectrum.of_type(name)) for name in spectrum.types}
    noise = {name: _middle_noise(spectrum.of_type(name)) for name in spectrum.types}
    rows = [
        (name, index, f"{sigma:.7g}", f"{noise[name]:.7g}")
        for name, values in middle.items()
        for index, sigma in enumerate(values, start=1)
    ]

    def draw(axes: Axes) -> None:
        for name, look in styles(spectrum).items():
            values = middle[name]
            shown = np.where(values > NEGLIGIBLE * values.max(initial=0.0), values, np.nan)
            axes.plot(range(1, len(shown) + 1), shown, **(look if len(shown) == 1 else {**look, "marker": ""}))
        drawn = [value for values in middle.values() for value in values if value > NEGLIGIBLE * values.max()]
        if drawn:
            _draw_noise(axes, list(noise.values()), min(drawn))
            log_axis(axes)
        else:
            say(axes, "nothing changed")
            axes.set_yticks([])
        rank_axis(axes, spectrum.ranks, "index of the singular value")
        axes.set_xlim(1 / 1.05, max(spectrum.rank, 1.5) * 1.02)
        axes.set_ylabel("singular value of dW")

    head = ["type", "index", "median_sigma", "median_noise_sigma"]
    question = "How fast do the singular values of the change fall?"
    detail = f"median over the layers of a type, {layers_of(spectrum)}"
    return Panel("singular_values", question, detail, draw, head, rows, is_by_type=True)


def _median(layers: Sequence[LayerSpectrum]) -> NDArray[np.float64]:
    """Return the median over the layers that changed, as far as all of them are known."""
    changed = [layer.sigma for layer in layers if layer.delta_norm]
    shortest = min((len(sigma) for sigma in changed), default=0)
    return np.median([sigma[:shortest] for sigma in changed], axis=0) if shortest else np.zeros(0)


def _middle_noise(layers: Sequence[LayerSpectrum]) -> float:
    return float(np.median([layer.noise_sigma for layer in layers]))


def _draw_noise(axes: Axes, levels: Sequence[float], smallest: float) -> None:
    """Draw the band of the largest singular values expected of noise, or say how far below the axis it is."""
    low, high = min(levels), max(levels)
    if not high:
        return
    if high < smallest / FAR_BELOW:
        say(axes, f"rounding noise: {two_digits(high)} at most", place=(0.97, 0.95))
        return
    bottom = min(smallest, low) / 2
    axes.set_ylim(bottom=bottom)
    axes.axhspan(bottom, high, color=GREY, alpha=0.18, linewidth=0)
    axes.axhline(high, color=GREY, linestyle="--", linewidth=0.9)
    axes.text(0.03, high / 1.05, "rounding noise", transform=axes.get_yaxis_transform(), va="top", color=GREY)


# -- energy and error -------------------------------------------------------------------------------------

Value: TypeAlias = Callable[[Sequence[LayerSpectrum], int], float]


def energy_by_rank(spectrum: Spectrum) -> Panel:
    """How much of ||dW||^2 does a rank keep, by type and pooled?"""
    parts = {name: spectrum.of_type(name) for name in spectrum.types}

    def draw(axes: Axes) -> None:
        _draw_lines(axes, spectrum, parts, styles(spectrum), energy)
        _energy_axis(axes)

    question = "How much of ||dW||² does a rank keep?"
    head, rows = _numbers(spectrum, parts, "type")
    return Panel("energy_by_rank", question, layers_of(spectrum), draw, head, rows, height=2.7, is_by_type=True)


def error_by_rank(spectrum: Spectrum) -> Panel | None:
    """How far is the truncated change from dW, by type and pooled? None where nothing changed."""
    if not spectrum.delta_norm:
        return None
    parts = {name: spectrum.of_type(name) for name in spectrum.types}

    def draw(axes: Axes) -> None:
        _draw_lines(axes, spectrum, parts, styles(spectrum), lambda *at: error(*at) or math.nan)
        axes.set_ylim(max(SMALLEST_ERROR, min(0.1, axes.get_ylim()[0])), 1.05)
        log_axis(axes)
        axes.set_ylabel("||dW − dW$_r$|| / ||dW||")

    question = "How far from dW is its best approximation of a rank?"
    head, rows = _numbers(spectrum, parts, "type")
    return Panel("error_by_rank", question, layers_of(spectrum), draw, head, rows, height=2.7, is_by_type=True)


def energy_by_group(spectrum: Spectrum) -> Panel | None:
    """Does attention need a higher rank than the MLP? None where there is only one of them."""
    if len(spectrum.groups) < 2 or not spectrum.delta_norm:
        return None
    parts = {NAMES.get(name, name): spectrum.of_group(name) for name in spectrum.groups}
    looks = {label: {**GROUP_LOOKS[name], "label": label} for label, name in zip(parts, spectrum.groups, strict=True)}

    def draw(axes: Axes) -> None:
        _draw_lines(axes, spectrum, parts, looks, energy)
        _energy_axis(axes)

    counts = ", ".join(f"{len(layers)} {name}" for name, layers in parts.items())
    question = "Does attention need another rank than the MLP?"
    head, rows = _numbers(spectrum, parts, "group")
    detail = f"pooled over the layers: {counts}"
    return Panel("energy_by_group", question, detail, draw, head, rows, legend_at="lower right")


def _draw_lines(
    axes: Axes, spectrum: Spectrum, parts: dict[str, list[LayerSpectrum]], looks: dict[str, Any], value: Value
) -> None:
    """Draw `value` of each part against rank, as far as it is known, and of all layers in black."""
    changed = {name: layers for name, layers in parts.items() if any(layer.delta_norm for layer in layers)}
    for name, layers in changed.items():
        ranks = _known(spectrum, layers)
        axes.plot(ranks, [value(layers, rank) for rank in ranks], **looks[name])
    ranks = _known(spectrum, spectrum.layers)
    if changed:
        pooled = [value(spectrum.layers, rank) for rank in ranks]
        axes.plot(ranks, pooled, label="all layers", marker=MARKERS[0] if len(ranks) == 1 else "", **POOLED)
    else:
        say(axes, "nothing changed")
    rank_axis(axes, spectrum.ranks)


def _energy_axis(axes: Axes) -> None:
    """Make the y axis an energy from 0 to 1, with the error that it amounts to on the right."""
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("energy")
    right = axes.secondary_yaxis("right", functions=(_as_error, _as_energy))
    right.set_yticks(ERROR_TICKS, [f"{tick:g}" for tick in ERROR_TICKS])
    right.set_ylabel("error, √(1 − energy)")


def _as_error(values: ArrayLike) -> NDArray[np.float64]:
    lost: NDArray[np.float64] = 1 - np.asarray(values, dtype=np.float64)
    return np.sqrt(np.maximum(0.0, lost), dtype=np.float64)


def _as_energy(values: ArrayLike) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.square(np.asarray(values, dtype=np.float64))
    return 1 - squares


def _known(spectrum: Spectrum, layers: Sequence[LayerSpectrum]) -> list[int]:
    known = known_rank(layers, spectrum.rank)
    return [rank for rank in spectrum.ranks if rank <= known]


def _numbers(spectrum: Spectrum, parts: dict[str, list[LayerSpectrum]], key: str) -> tuple[list[str], list[Row]]:
    rows: list[Row] = [
        (name, len(layers), rank, f"{energy(layers, rank):.7f}", f"{error(layers, rank):.7f}")
        for name, layers in {**parts, "all layers": list(spectrum.layers)}.items()
        for rank in _known(spectrum, layers)
    ]
    return [key, "layers", "rank", "energy", "error"], rows
