"""The figures of an export: each answers the one question that is its title, and four of them make an overview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.export import depth_panels, figure_style, rank_panels
from trainables.export.figure_style import Panel
from trainables.export.functional_panel import functional_gain
from trainables.export.spectrum import FunctionalGain, Spectrum
from trainables.export.words import percent, two_digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OVERVIEW = "figure.png"
FOLDER = "figures"
OVERVIEW_SIZE = (7.2, 6.0)
"""Inches: both columns of a paper."""
BY_IMPORTANCE = (
    "functional_gain",
    "ranks_by_depth",
    "energy_by_depth",
    "change_by_depth",
    "energy_by_group",
    "error_by_rank",
)
"""What fills the overview beside singular values and energy: the first two of these that there are."""


def draw_all(
    folder: Path,
    spectrum: Spectrum,
    *,
    gains: Sequence[FunctionalGain] = (),
    ranks: Mapping[str, int] | None = None,
) -> list[str]:
    """Write figure.png, and every figure alone with its numbers under figures/; return their names."""
    found = panels(spectrum, gains, ranks)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    with figure_style.house_rules():
        for panel in found:
            figure_style.write_panel(folder / FOLDER, panel)
        figure_style.save(overview(found, spectrum), folder / OVERVIEW)
    return [panel.name for panel in found]


def panels(
    spectrum: Spectrum, gains: Sequence[FunctionalGain] = (), ranks: Mapping[str, int] | None = None
) -> list[Panel]:
    """Return the panels that there are numbers for."""
    found = [
        rank_panels.singular_values(spectrum),
        rank_panels.energy_by_rank(spectrum),
        rank_panels.error_by_rank(spectrum),
        rank_panels.energy_by_group(spectrum),
        depth_panels.energy_by_depth(spectrum),
        depth_panels.change_by_depth(spectrum),
        depth_panels.ranks_by_depth(spectrum, ranks),
        functional_gain(gains),
    ]
    return [panel for panel in found if panel is not None]


def overview(found: Sequence[Panel], spectrum: Spectrum) -> Figure:
    """Return singular values, energy and the two most telling others of the panels found, in one figure."""
    by_name = {panel.name: panel for panel in found}
    others = sorted(
        [by_name[name] for name in BY_IMPORTANCE if name in by_name][:2], key=lambda panel: not panel.is_map
    )
    shown = [*found[:2], *others]
    figure = figure_style.new_figure(OVERVIEW_SIZE[0], OVERVIEW_SIZE[1] / (2 if len(shown) < 3 else 1))
    for index, panel in enumerate(shown):
        place = figure.add_subplot(1 if len(shown) < 3 else 2, 2, index + 1)
        panel.draw(place)
        place.set_title(panel.question, loc="left")
        if panel.is_by_type:
            last = place
        elif place.get_legend_handles_labels()[1]:
            look: dict[str, Any] = {"loc": panel.legend_at, "ncols": 2 if panel.legend_at == "upper center" else 1}
            place.legend(*place.get_legend_handles_labels(), **look)
    figure_style.legend(figure, last)
    figure.suptitle(
        f"How low is the rank of the change?   {rank_panels.layers_of(spectrum)}, "
        f"||dW|| / ||W|| = {two_digits(spectrum.relative_delta)}, "
        f"{percent(spectrum.outside_share)} of ||dW||² outside them"
    )
    return figure
