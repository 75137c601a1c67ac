"""How figures look: one colour and marker per arm in every figure, intervals as bands, ranks as ticks.

Colours are Okabe and Ito's, told apart by colour-blind readers; figures are drawn without pyplot, so that
nothing global is touched.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, GREY = "#000000", "#707070"
ARM_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
TYPE_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#000000", "#707070")
DPI = 200

RULES: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#404040",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "figure.titlesize": 10.5,
}


@contextlib.contextmanager
def house_rules() -> Iterator[None]:
    """Draw and save within this: it keeps the rules of figures to themselves, and matplotlib silent."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib as mpl

    with mpl.rc_context(RULES):
        yield


def figure(columns: int = 1, rows: int = 1, *, width: float = 6.4, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    """Return an empty figure (inches) and its axes, which share both scales."""
    from matplotlib.figure import Figure as NewFigure

    drawn = NewFigure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    return drawn, [axis for row in axes for axis in row]


def title(drawn: Figure, question: str, detail: str) -> None:
    """Put the question on top, and under it what is shown, with its n."""
    drawn.suptitle(f"{question}\n{detail[0].upper()}{detail[1:]}", x=0.01, ha="left")


def legend(drawn: Figure, axis: Axes, *, beside: bool = False) -> None:
    """Put the legend where it covers nothing: under the panels, or beside them if it is long."""
    handles, labels = axis.get_legend_handles_labels()
    if beside:
        drawn.legend(handles, labels, loc="outside right center")
    else:
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))


def save(drawn: Figure, path: Path) -> None:
    """Write a figure as PNG, with nothing in it that changes from time to time."""
    drawn.savefig(path, dpi=DPI, metadata={"Software": None})


def arm_style(arms: Sequence[str], arm: str) -> tuple[str, str]:
    """Return colour and marker of an arm; the baseline, which comes first, has the first."""
    index = list(arms).index(arm) % len(ARM_COLOURS)
    return ARM_COLOURS[index], MARKERS[index]


def rank_axis(axis: Axes, ranks: Sequence[float]) -> None:
    """Make the x axis log2 with the actual ranks, and only those, as ticks."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(list(ranks)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticklabels([f"{rank:g}" for rank in ranks])
    low, high = min(ranks), max(ranks)
    axis.set_xlim(low / 1.4, high * 1.4)


def loss_axis(axis: Axes) -> None:
    """Make the y axis logarithmic where the values span more than a factor of two, with plain numbers as ticks."""
    from matplotlib.ticker import FormatStrFormatter, NullFormatter, SymmetricalLogLocator

    low, high = axis.get_ylim()
    if low <= 0 or high / low < 2:
        return
    axis.set_yscale("log")
    ticks = [1, 1.5, 2, 3, 5, 7] if high / low < 20 else [1, 2, 5]
    axis.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1e-6, subs=ticks))
    axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def rule(axis: Axes, value: float, label: str = "", *, colour: str = BLACK) -> None:
    """Draw a dashed rule across the axis, with its label in the margin at its right end."""
    axis.axhline(value, color=colour, linestyle="--", linewidth=1.1, zorder=1.5)
    _in_margin(axis, label, value, "data", colour)


def off_scale(axis: Axes, label: str, *, colour: str = GREY) -> None:
    """Name in the margin, at the top, a reference that lies too far above to be drawn."""
    _in_margin(axis, f"↑ {label}", 1.0, "axes fraction", colour)


def _in_margin(axis: Axes, label: str, height: float, coordinates: str, colour: str) -> None:
    axis.annotate(
        label,
        (1.0, height),
        xycoords=("axes fraction", coordinates),
        xytext=(4, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        color=colour,
        fontsize=8,
        annotation_clip=False,
    )
