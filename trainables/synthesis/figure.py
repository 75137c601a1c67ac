"""The figure of a synthesised teacher: its spectrum beside its members', how alike they are, how many dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainables.export import figure_style
from trainables.export.figure_style import BLACK, COLOURS, GREY, Panel
from trainables.synthesis.mean import Synthesis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE, FOLDER = "figure.png", "figures"
SIZE = (10.0, 3.0)
"""Inches."""


def draw(folder: Path, found: Synthesis) -> None:
    """Write figure.png with the three panels, and each of them alone with its numbers under figures/."""
    panels = [spectrum(found), alikeness(found), dimensions(found)]
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    with figure_style.house_rules():
        for panel in panels:
            figure_style.write_panel(folder / FOLDER, panel)
        figure = figure_style.new_figure(*SIZE)
        for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
            panel.draw(axes)
            axes.set_title(panel.question, loc="left")
            axes.legend(loc=panel.legend_at)
        figure.suptitle(f"A teacher made of {_made_of(found)}")
        figure_style.save(figure, folder / FIGURE)


def spectrum(found: Synthesis) -> Panel:
    """Return the singular values by index, root mean square over the layers: the mean's and each member's."""
    mean = _rms([layer.values for layer in found.layers])
    members = [_rms([layer.members[index] for layer in found.layers]) for index in range(found.members)]
    rows = [
        [index + 1, value, *(member[index] if index < len(member) else "" for member in members)]
        for index, value in enumerate(mean)
    ]

    def show(axes: Axes) -> None:
        for index, values in enumerate(members):
            label = "members" if index == 0 else None
            axes.plot(range(1, len(values) + 1), values, color=COLOURS[4], linewidth=0.8, label=label)
        axes.plot(range(1, len(mean) + 1), mean, color=BLACK, label="their mean")
        axes.set_yscale("log")
        low = min(value for values in members for value in values if value > 0) if any(map(any, members)) else 1e-12
        axes.set_ylim(bottom=low / 10)
        axes.set_xlabel("index")
        axes.set_ylabel("singular value (root mean square)")

    head = ["index", "mean", *(f"member_{index + 1}" for index in range(found.members))]
    return Panel("synthesis_spectrum", "Does the mean keep the members' spectrum?", _made_of(found), show, head, rows)


def alikeness(found: Synthesis) -> Panel:
    """Return the overlap of two members' leading subspaces by layer type, with what chance would give."""
    shown = [(kind, [value for layer in found.of_type(kind) for value in layer.overlaps]) for kind in found.types]
    chances = [fmean(layer.chance for layer in found.of_type(kind)) for kind in found.types]
    rows = [
        [kind, fmean(values) if values else "", min(values, default=""), max(values, default=""), chance]
        for (kind, values), chance in zip(shown, chances, strict=True)
    ]

    def show(axes: Axes) -> None:
        for place, (_, values) in enumerate(shown):
            axes.plot([place] * len(values), values, ".", color=COLOURS[0], label=None if place else "pairs, by layer")
        axes.plot(range(len(shown)), chances, "_", color=GREY, markersize=14, label="by chance")
        axes.set_xticks(range(len(shown)), [kind for kind, _ in shown], rotation=40, ha="right")
        axes.set_ylim(0, 1)
        axes.set_ylabel("mean squared cosine")

    head = ["type", "overlap", "smallest", "largest", "chance"]
    return Panel("synthesis_overlap", "Do the members move in the same directions?", _made_of(found), show, head, rows)


def dimensions(found: Synthesis) -> Panel:
    """Return the effective rank of the mean and of the members by layer type."""
    mean = [fmean(layer.effective_rank for layer in found.of_type(kind)) for kind in found.types]
    member = [fmean(layer.member_effective_rank for layer in found.of_type(kind)) for kind in found.types]

    def show(axes: Axes) -> None:
        places = range(len(mean))
        axes.plot(places, member, "o", color=COLOURS[4], label="members")
        axes.plot(places, mean, "s", color=BLACK, label="their mean")
        axes.set_xticks(places, found.types, rotation=40, ha="right")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("effective rank (mean over layers)")

    head, rows = ["type", "mean", "members"], list(zip(found.types, mean, member, strict=True))
    return Panel("synthesis_rank", "How many dimensions does the mean gain?", _made_of(found), show, head, rows)


def _made_of(found: Synthesis) -> str:
    return f"{found.members} LoRAs of rank {found.rank}, {len(found.layers)} layers"


def _rms(spectra: Sequence[Tensor]) -> list[float]:
    """Return the root mean square of each singular value over layers; one that a layer has not counts as zero."""
    longest = max(map(len, spectra))
    padded = torch.zeros(len(spectra), longest, dtype=torch.float64)
    for row, values in zip(padded, spectra, strict=True):
        row[: len(values)] = values
    return [math.sqrt(value) for value in padded.square().mean(0).tolist()]
