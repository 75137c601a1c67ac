"""How figures look: one colour and marker per arm in every figure, intervals as bands, ranks as ticks.

Colours are Okabe and Ito's, told apart by colour-blind readers; figures are drawn without pyplot, so that
nothing global is touched. A figure is drawn for a report, a slide or a paper's column: it asks for a size, and the
`Look` in force decides what becomes of it.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, GREY = "#000000", "#707070"
ARM_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":")
TYPE_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#000000", "#707070")
FORMATS = ("png", "svg", "pdf")

RULES: dict[Any, Any] = {
    # The others have nearly the same widths, for a reader of an SVG whose machine lacks the first.
    "font.family": ["DejaVu Sans", "Verdana", "Geneva", "sans-serif"],
    "svg.fonttype": "none",
    "svg.hashsalt": "orchestrator",
    "pdf.fonttype": 42,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#404040",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": "medium",
}
IN_POINTS: dict[Any, float] = {
    "font.size": 9,
    "figure.titlesize": 10.5,
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "lines.markeredgewidth": 1.0,
    "patch.linewidth": 1.0,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
}
"""What grows with a look's scale."""


@dataclass(frozen=True)
class Look:
    """What a figure is drawn for. Sizes are inches; None: as the figure asks (`height`: times `height_scale`).

    `scale` is that of type, lines and markers; `most_columns` bounds panels side by side. A paper says under a figure
    what its title would say, so a column's has none.
    """

    name: str
    width: float | None = None
    height: float | None = None
    height_scale: float = 1.0
    scale: float = 1.0
    most_columns: int = 3
    has_title: bool = True
    dpi: int = 200
    padding: float = 0.04


REPORT = Look("report")
SLIDE = Look("slide", width=40 / 3, height=7.5, scale=2.1, dpi=144, padding=0.25)
"""16:9, 1920 x 1080 pixels, type of 19 points."""
COLUMN = Look(
    "column",
    width=3.35,
    height_scale=0.62,
    scale=0.8,
    most_columns=2,
    has_title=False,
    dpi=300,
    padding=0.02,
)
"""One column of a two-column paper, type of 7 points."""

_LOOK: ContextVar[Look] = ContextVar("look", default=REPORT)


def look() -> Look:
    """Return the look in force."""
    return _LOOK.get()


@contextlib.contextmanager
def house_rules(of: Look = REPORT) -> Iterator[None]:
    """Draw and save within this: it keeps the rules of figures to themselves, and matplotlib silent."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib as mpl

    rules = {**RULES, **{name: size * of.scale for name, size in IN_POINTS.items()}}
    rules |= {"figure.constrained_layout.w_pad": of.padding, "figure.constrained_layout.h_pad": of.padding}
    token = _LOOK.set(of)
    try:
        with mpl.rc_context(rules):
            yield
    finally:
        _LOOK.reset(token)


def points(size: float) -> float:
    """Return a length in points at the scale of the look in force."""
    return size * look().scale


def columns_for(panels: int) -> int:
    """Return how many panels stand side by side."""
    return min(panels, look().most_columns)


def figure(
    columns: int = 1, rows: int = 1, *, width: float = 6.4, height: float = 4.0, share_x: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure and its axes, which share their scales; the size (inches) is the one asked for here."""
    from matplotlib.figure import Figure as NewFigure

    size = (look().width or width, look().height or height * look().height_scale)
    drawn = NewFigure(figsize=size, layout="constrained")
    axes = drawn.subplots(rows, columns, sharex=share_x, sharey=True, squeeze=False)
    return drawn, [axis for row in axes for axis in row]


def title(drawn: Figure, question: str, detail: str) -> None:
    """Put the question on top, and under it what is shown, with its n."""
    if look().has_title:
        drawn.suptitle(f"{question}\n{detail[0].upper()}{detail[1:]}", x=0.01, ha="left")


def legend(drawn: Figure, axis: Axes, only: Sequence[str] | None = None, *, beside: bool = False) -> None:
    """Put the legend where it covers nothing: under the panels, or beside them if it is long and there is room.

    With `only`, it names these labels and no others.
    """
    named = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    labels = [label for label in named if only is None or label in only]
    handles = [named[label] for label in labels]
    if beside and look().most_columns > 2:
        drawn.legend(handles, labels, loc="outside right center")
    else:
        drawn.legend(handles, labels, loc="outside lower center", ncols=legend_columns(drawn, labels))


def legend_columns(drawn: Figure, labels: Sequence[str]) -> int:
    """Return how many columns of these labels fit into the figure's width, reckoned from the size of the type."""
    em = points(IN_POINTS["font.size"]) / 72
    column = em * (5 + 0.62 * max(map(len, labels), default=0))
    return max(1, min(4, len(labels), int(drawn.get_figwidth() / column)))


STEADY: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Metadata left out, so that nothing in a file changes from time to time."""


def save(drawn: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the ending of the name; text of the latter two stays text."""
    kind = path.suffix[1:]
    drawn.savefig(path, format=kind, dpi=look().dpi, metadata=STEADY[kind])


def as_svg(drawn: Figure) -> bytes:
    """Return a figure as SVG that looks alike on every machine: letters are outlines."""
    import matplotlib as mpl

    stream = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path"}):
        drawn.savefig(stream, format="svg", metadata=STEADY["svg"])
    return stream.getvalue()


def arm_style(arms: Sequence[str], arm: str) -> tuple[str, str]:
    """Return colour and marker of an arm among all of the study's; the baseline, which comes first, has the first.

    The baseline's colour is its own. Where there are more other arms than other colours, markers shift against them:
    no two of the first 31 arms look alike.
    """
    index = list(arms).index(arm)
    if index == 0:
        return ARM_COLOURS[0], MARKERS[0]
    turn, place = divmod(index - 1, len(ARM_COLOURS) - 1)
    return ARM_COLOURS[1 + place], MARKERS[(1 + place + turn) % len(MARKERS)]


def arm_line(arms: Sequence[str], arm: str) -> dict[str, Any]:
    """Return colour, marker and dashes of an arm's line; see `arm_style`."""
    colour, marker = arm_style(arms, arm)
    dashes = DASHES[max(0, list(arms).index(arm) - 1) // (len(ARM_COLOURS) - 1) % len(DASHES)]
    return {"color": colour, "marker": marker, "linestyle": dashes}


def rank_style(ranks: Sequence[int], rank: int) -> tuple[str, str]:
    """Return shade and marker of a rank where ranks are told apart: greys, for colours are the arms'."""
    place = list(ranks).index(rank)
    lightness = 0.7 * (1 - place / (len(ranks) - 1)) if len(ranks) > 1 else 0.0
    return str(round(lightness, 3)), MARKERS[place % len(MARKERS)]


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
    axis.axhline(value, color=colour, linestyle="--", linewidth=points(1.1), zorder=1.5)
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
        fontsize="small",
        annotation_clip=False,
    )
