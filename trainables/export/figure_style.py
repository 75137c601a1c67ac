"""How the figures of an export look: the width of a paper's column, which also fills a slide; Okabe-Ito colours.

A panel is one question with the numbers that answer it. It can be drawn alone, or beside others in an overview, and
its numbers are written beside it, so that nothing is in a picture that is not in a table.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from trainables.export.spectrum import Spectrum
from trainables.export.spectrum_tables import write_csv
from trainables.export.words import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#7F7F7F")
"""Okabe and Ito's palette (https://jfly.uni-koeln.de/color), with a grey for its yellow, which white paper swallows.

Black is kept for all layers together.
"""
BLACK, GREY = "#000000", "#707070"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = {"attention": "-", "mlp": (0, (4, 1.5)), "other": ":"}
COLUMN_WIDTH = 3.5
"""Inches: one column of a two-column paper. Letters of 7 to 8 points stay readable there."""
LEGEND_ROW = 0.16
LONGEST_LABEL = 18
CLOSE = 0.08
"""Labels of ranks closer than this share of the axis would touch."""
MOST_LABELS = 9
"""Labels of ranks that fit beside each other on an axis."""
DPI = 200

RULES: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.3,
    "lines.linewidth": 1.1,
    "lines.markersize": 3,
    "figure.titlesize": 8,
}

Row: TypeAlias = Sequence[object]


@dataclass(frozen=True)
class Panel:
    """One question, its answer as numbers (`head` and `rows`), and how to draw them; `detail` says of how many."""

    name: str
    question: str
    detail: str
    draw: Callable[[Axes], None]
    head: Sequence[str]
    rows: Sequence[Row]
    height: float = 2.5
    """Inches, without the legend."""
    is_by_type: bool = False
    """True if its legend is the layer types, which panels side by side share."""
    legend_at: str = "best"
    """Where an overview puts a legend of its own."""
    is_map: bool = False
    """True if it brings its own scale of colours."""


@contextlib.contextmanager
def house_rules() -> Iterator[None]:
    """Draw and save within this: it keeps the rules to these figures, and matplotlib silent."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib as mpl

    with mpl.rc_context(RULES):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure (inches) that needs no display."""
    from matplotlib.figure import Figure as NewFigure

    return NewFigure(figsize=(width, height), layout="constrained")


def write_panel(folder: Path, panel: Panel) -> None:
    """Write a panel alone as PNG, under its question, and its numbers as CSV."""
    write_csv(folder / f"{panel.name}.csv", panel.head, panel.rows)
    save(panel_figure(panel), folder / f"{panel.name}.png")


def panel_figure(panel: Panel) -> Figure:
    """Return a panel alone, one column wide, with its question and its n on top."""
    figure = new_figure(COLUMN_WIDTH, panel.height)
    axes = figure.subplots()
    panel.draw(axes)
    rows = legend(figure, axes)
    figure.set_size_inches(COLUMN_WIDTH, panel.height + LEGEND_ROW * rows)
    figure.suptitle(f"{panel.question}\n{panel.detail}", x=0.02, ha="left")
    return figure


def legend(figure: Figure, axes: Axes) -> int:
    """Put the legend under the panels, in as many columns as fit; return its number of rows."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return 0
    width = float(figure.get_size_inches()[0])
    most = max(1, int(width / (0.42 + 0.055 * max(map(len, labels)))))
    rows = -(-len(labels) // most)
    figure.legend(handles, labels, loc="outside lower center", ncols=-(-len(labels) // rows))
    return rows


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, with nothing in it that changes from time to time."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def styles(spectrum: Spectrum) -> dict[str, dict[str, Any]]:
    """Return the look of each type: lines of attention are solid, of the MLP dashed, of others dotted."""
    looks: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(spectrum.types):
        turn, place = divmod(index, len(COLOURS))
        look = {"color": COLOURS[place], "marker": MARKERS[(place + turn) % len(MARKERS)]}
        dash = DASHES[spectrum.of_type(name)[0].group]
        looks[name] = {**look, "linestyle": dash, "label": shorten(name, LONGEST_LABEL)}
    return looks


def rank_axis(axes: Axes, ranks: Sequence[int], label: str = "rank") -> None:
    """Make the x axis log2 with the actual ranks as ticks; where they are too close, some keep only their tick."""
    last = ranks[-1]
    step = 1 if len(ranks) <= MOST_LABELS else 2
    close = CLOSE * math.log2(1.3**2 * last / ranks[0])
    apart = {last, *(rank for rank in ranks[::-step] if math.log2(last / rank) > close)}
    labels = [str(rank) if rank in apart else "" for rank in ranks]
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ranks), labels)
    axes.minorticks_off()
    axes.set_xlim(ranks[0] / 1.3, last * 1.3)
    axes.set_xlabel(label)


def log_axis(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers as ticks where it spans less than two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 100:
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def depth_axis(axes: Axes, depths: Sequence[int]) -> None:
    """Make the x axis the blocks' indices."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlim(min(depths) - 0.5, max(depths) + 0.5)
    axes.set_xlabel("block")


def say(axes: Axes, text: str, *, place: tuple[float, float] = (0.5, 0.5)) -> None:
    """Write a remark into a panel, in grey, at a place from (0, 0) to (1, 1)."""
    across = {0.5: "center", 0.97: "right"}.get(place[0], "left")
    axes.text(*place, text, transform=axes.transAxes, ha=across, va="center", color=GREY, fontsize=7)
