"""A search's figures: how it got there, what matters, which values are good, what trades off. Numbers beside each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from orchestrator.report import style
from orchestrator.report.material import Drawn
from orchestrator.report.search.outcome import Found
from orchestrator.search.points import Point, front
from orchestrator.space import Choice, Int, Objective, Search
from orchestrator.study import setting_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALL = ""
"""The group of all points, where the search has no arms."""
SIZE = "trainable_parameters"
MOST_PANELS = 9
FAR, FEW = 4.0, 8
"""How far the drawn range goes, in ways from the best to the third quartile; with fewer points all are drawn."""


def words(metric: str) -> str:
    """Return a metric's name for people."""
    known = {"final_eval_loss": "held-out loss", "trainable_parameters": "trainable parameters"}
    return known.get(metric, metric.replace("_", " "))


# -- how it got there -------------------------------------------------------------------------------------


def history(found: Found) -> Drawn | None:
    """Does the search still find anything better? The objective of every point in the order of asking."""
    done = [point for point in found.points if point.state == "done"]
    if not done:
        return None
    metric = found.search.objectives[0]
    drawn, (axis,) = style.figure(width=6.8, height=3.9)
    frame = Frame.of(done, metric)
    for arm, of_arm in _by_arm(found, done).items():
        colour, marker = _look(found, arm)
        axis.plot(
            [p.number for p in of_arm], frame.heights(of_arm), marker, color=colour, label=arm or "points",
            clip_on=False,
        )  # fmt: skip
    best = _running_best(done, metric)
    axis.step(
        [*best["point"], found.points[-1].number], [*best["best"], best["best"].iloc[-1]], where="post",
        color=style.BLACK, linewidth=style.points(1.2), label="best so far", zorder=1.5,
    )  # fmt: skip
    style.loss_axis(axis)
    frame.fit(axis)
    _draw_ended(axis, found)
    usual = found.usual
    if usual is not None and frame.holds(usual.values[0]):
        style.rule(axis, usual.values[0], f"usual\nsettings\n{usual.values[0]:.3g}", colour=style.GREY)
    axis.set_xlabel("point, in the order of asking")
    axis.set_ylabel(words(metric.metric))
    style.legend(drawn, axis)
    detail = f"{_told(found)}; {_replicates(found)} each{frame.note}"
    style.title(drawn, "Does the search still find anything better?", detail)
    numbers = found.table()[["point", "name", "state", metric.metric, "steps"]].merge(best, on="point", how="left")
    return Drawn(drawn, numbers, f"{words(metric.metric).capitalize()} of the points of the search, {detail}.")


def _running_best(done: list[Point], metric: Objective) -> pd.DataFrame:
    values = pd.Series([point.values[0] for point in done])
    best = values.cummax() if metric.higher_is_better else values.cummin()
    return pd.DataFrame({"point": [point.number for point in done], "best": best})


def _draw_ended(axis: Axes, found: Found) -> None:
    """Mark at the top the points that ended otherwise, and along the curve where they were."""
    marks = {"pruned": ("|", "pruned"), "diverged": ("x", "diverged"), "failed": ("1", "failed")}
    for state, (marker, label) in marks.items():
        numbers = [point.number for point in found.points if point.state == state]
        if numbers:
            heights = [0.985] * len(numbers)
            axis.plot(
                numbers, heights, marker, color=style.GREY, transform=axis.get_xaxis_transform(),
                markersize=style.points(6), label=f"{label} ({len(numbers)})",
            )  # fmt: skip


# -- what matters -----------------------------------------------------------------------------------------


def importance(found: Found) -> Drawn | None:
    """Which settings matter? The share of the objective's variance that each explains by itself and with others."""
    shares = found.importances()
    if not shares:
        return None
    numbers = pd.DataFrame({"axis": [*shares], "importance": [*shares.values()]})
    drawn, (axis,) = style.figure(width=6.0, height=0.9 + 0.36 * len(shares))
    places = range(len(shares))
    axis.barh(places, numbers["importance"], color=style.ARM_COLOURS[1], height=0.62)
    axis.set_yticks(places, [setting_of(name).replace("_", " ") for name in shares])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    for place, share in zip(places, numbers["importance"], strict=True):
        axis.annotate(f"{share:.2f}", (share, place), xytext=(4, 0), textcoords="offset points", va="center")
    axis.set_xlim(0, min(1.0, float(numbers["importance"].max()) * 1.15))
    axis.set_xlabel(f"share of the variance of {words(found.search.objectives[0].metric)}")
    done = sum(point.state == "done" for point in found.points)
    detail = f"by fANOVA, over {done} finished points; pruned ones are not in it"
    style.title(drawn, "Which settings matter?", detail)
    return Drawn(drawn, numbers, f"Importance of each setting, {detail}.")


# -- which values are good --------------------------------------------------------------------------------


def slices(found: Found) -> Drawn | None:
    """Which values are good? The objective against every axis."""
    done = [point for point in found.points if point.state == "done"]
    axes = [axis for axis in found.axes if axis != found.search.arm and len({p.at.get(axis) for p in done}) > 1]
    if not axes or len(axes) > MOST_PANELS:
        return None
    columns = style.columns_for(len(axes))
    rows = math.ceil(len(axes) / columns)
    drawn, panels = style.figure(columns, rows, width=2.6 * columns + 0.4, height=2.5 * rows + 0.8, share_x=False)
    best, frame = found.best, Frame.of(done, found.search.objectives[0])
    for panel, name in zip(panels, axes, strict=False):
        place = _scale_of(panel, found.search, name)
        for arm, of_arm in _by_arm(found, [p for p in done if name in p.at]).items():
            colour, marker = _look(found, arm)
            panel.plot(
                [place(p.at[name]) for p in of_arm],
                frame.heights(of_arm), marker, color=colour,
                label=arm or "points", alpha=0.8,
            )  # fmt: skip
        if best is not None and name in best.at:
            panel.plot([place(best.at[name])], [best.values[0]], **_ring(), label="best")
        panel.set_xlabel(setting_of(name).replace("_", " "))
    for panel in panels[len(axes) :]:
        panel.set_visible(False)
    style.loss_axis(panels[0])
    frame.fit(panels[0])
    for first in panels[::columns]:
        first.set_ylabel(words(found.search.objectives[0].metric))
    style.legend(drawn, panels[0])
    detail = f"{len(done)} finished points, which differ in the other settings, too{frame.note}"
    style.title(drawn, "Which values are good?", detail)
    return Drawn(drawn, found.table(), f"The objective against every setting; {detail}.")


def _scale_of(panel: Axes, search: Search, name: str) -> Callable[[Any], float]:
    """Set the x axis of one setting up; return where a value of it lies."""
    of = search.space[name]
    if isinstance(of, Choice):
        labels = [str(value) for value in of.values]
        panel.set_xticks(range(len(labels)), labels, rotation=20 if max(map(len, labels)) > 5 else 0)
        panel.set_xlim(-0.5, len(labels) - 0.5)
        return lambda value: float(of.values.index(value))
    if isinstance(of, Int) and of.log and of.high / of.low < 100:
        ticks = [of.low * 2**octave for octave in range(int(math.log2(of.high / of.low)) + 1)]
        style.rank_axis(panel, ticks)
    elif of.log:
        panel.set_xscale("log")
    return float


# -- what trades off --------------------------------------------------------------------------------------


def trade_off(found: Found) -> Drawn | None:
    """What trades off? Both objectives, or the one and the adapter's size, with the points on the front."""
    second = found.search.objectives[1] if len(found.search.objectives) > 1 else Objective(SIZE)
    pairs = [(point, size) for point in found.points if (size := _second(found, point, second)) is not None]
    if len({size for _, size in pairs}) < 2:
        return None
    placed = [Point(p.asked, p.state, (p.values[0], size), p.curve, p.steps) for p, size in pairs]
    both = Search(found.search.space, found.search.points, (found.search.objectives[0], second))
    best = front(placed, both)
    drawn, (axis,) = style.figure(width=6.4, height=4.0)
    frame = Frame.of(placed, both.objectives[0])
    for arm, of_arm in _by_arm(found, placed).items():
        colour, marker = _look(found, arm)
        axis.plot(
            [p.values[1] for p in of_arm],
            frame.heights(of_arm), marker, color=colour, label=arm or "points",
            alpha=0.8,
        )  # fmt: skip
    rising = sorted(best, key=lambda point: point.values[1])
    axis.plot(
        [p.values[1] for p in rising],
        frame.heights(rising), color=style.BLACK, drawstyle="steps-post",
        linewidth=style.points(1.2), zorder=1.5, label=f"front ({len(best)} points)",
    )  # fmt: skip
    sizes = [size for _, size in pairs]
    if min(sizes) > 0 and max(sizes) / min(sizes) > 3:
        axis.set_xscale("log")
    style.loss_axis(axis)
    frame.fit(axis)
    axis.set_xlabel(words(second.metric))
    axis.set_ylabel(words(found.search.objectives[0].metric))
    style.legend(drawn, axis)
    kept = {point.number for point in best}
    numbers = pd.DataFrame(
        [
            {"point": p.number, "name": found.name(p), words(both.objectives[0].metric): p.values[0],
             words(second.metric): p.values[1], "is_on_front": p.number in kept}
            for p in placed
        ]
    )  # fmt: skip
    searched = "both searched for" if len(found.search.objectives) > 1 else "the loss alone was searched for"
    detail = f"{len(pairs)} finished points; {searched}{frame.note}"
    style.title(drawn, f"What trades off against {words(second.metric)}?", detail)
    caption = f"{words(found.search.objectives[0].metric).capitalize()} against {words(second.metric)}, {detail}."
    return Drawn(drawn, numbers, caption)


def _second(found: Found, point: Point, objective: Objective) -> float | None:
    """Return the second objective of a point, or what its runs have measured as that."""
    if point.state != "done":
        return None
    if len(point.values) > 1:
        return point.values[1]
    values = [found.records[run].metrics.get(objective.metric) for run in point.asked.runs if run in found.records]
    known = [float(value) for value in values if isinstance(value, int | float)]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Frame:
    """The part of the objective's range that is drawn: bad points far from the others would squeeze all the rest."""

    low: float
    high: float
    beyond: int
    higher_is_better: bool

    @classmethod
    def of(cls, points: list[Point], objective: Objective) -> Frame:
        """Return a frame of `FAR` times the way from the best to the third quartile."""
        values = pd.Series([point.values[0] for point in points])
        best = values.max() if objective.higher_is_better else values.min()
        quartile = values.quantile(0.25 if objective.higher_is_better else 0.75)
        edge = float(best + FAR * (quartile - best)) if len(values) >= FEW and quartile != best else math.nan
        low, high = float(values.min()), float(values.max())
        if objective.higher_is_better:
            low = max(low, edge) if math.isfinite(edge) else low
        else:
            high = min(high, edge) if math.isfinite(edge) else high
        beyond = int(((values < low) | (values > high)).sum())
        return cls(low, high, beyond, objective.higher_is_better)

    def holds(self, value: float) -> bool:
        """Say whether a value is drawn where it is."""
        return self.low <= value <= self.high

    def heights(self, points: list[Point]) -> list[float]:
        """Return where points are drawn: those beyond the frame at its edge."""
        return [min(max(point.values[0], self.low), self.high) for point in points]

    def fit(self, axis: Axes) -> None:
        """Leave a margin around the frame."""
        margin = 0.08 * (self.high - self.low) or abs(self.high) * 0.05
        axis.set_ylim(self.low - margin, self.high + margin)

    @property
    def note(self) -> str:
        """What to say of the points that are not drawn where they are."""
        side = "below" if self.higher_is_better else "above"
        verb = "lies" if self.beyond == 1 else "lie"
        return f"; {self.beyond} {verb} {side} the axis" if self.beyond else ""


# -- small things -----------------------------------------------------------------------------------------


def _by_arm(found: Found, points: list[Point]) -> dict[str, list[Point]]:
    """Return the points by their arm; all under one name where the search has none."""
    arm = found.search.arm
    groups: dict[str, list[Point]] = {name: [] for name in _arms(found)}
    for point in points:
        groups[str(point.at.get(arm)) if arm else ALL].append(point)
    return {name: group for name, group in groups.items() if group}


def _arms(found: Found) -> list[str]:
    of = found.search.space.get(found.search.arm or "")
    return [str(value) for value in of.values] if isinstance(of, Choice) else [ALL]


def _look(found: Found, arm: str) -> tuple[str, str]:
    return style.arm_style(_arms(found), arm)


def _ring() -> dict[str, Any]:
    return {
        "marker": "o",
        "linestyle": "none",
        "markersize": style.points(11),
        "markerfacecolor": "none",
        "markeredgecolor": style.BLACK,
        "markeredgewidth": style.points(1.3),
        "zorder": 5,
    }


def _told(found: Found) -> str:
    done = sum(point.state == "done" for point in found.points)
    return f"{done} of {len(found.points)} points ran to the end"


def _replicates(found: Found) -> str:
    """Say how many runs a point has."""
    count = max(len(point.asked.runs) for point in found.points)
    return "one run" if count == 1 else f"{count} seeds"


FIGURES: dict[str, Callable[[Found], Drawn | None]] = {
    "history": history,
    "importance": importance,
    "slices": slices,
    "trade_off": trade_off,
}
