"""Which value did each arm choose, and how clearly? Validation loss against the value, with the point of every seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from orchestrator.plan import Plan
from orchestrator.report import style
from orchestrator.selection import Selection, written
from orchestrator.study import Comparison, setting_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP = 0.97
"""Height, as a share of the panel, at which a run that diverged is drawn."""


def draw(plan: Plan, arms: Sequence[str]) -> tuple[Figure, pd.DataFrame, str] | None:
    """Return the figure, its numbers (`table`) and its caption; None where nothing is selected or nothing was tried."""
    numbers = table(plan)
    if numbers.empty or numbers["loss"].isna().all():
        return None
    panels = list(dict.fromkeys(numbers["panel"]))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    drawn, axes = style.figure(columns, rows, width=2.0 + 2.6 * columns, height=1.2 + 2.6 * rows)
    for axis, panel in zip(axes, panels, strict=False):
        axis.set_xscale("log")
        _draw_panel(axis, numbers[numbers["panel"] == panel], arms)
        axis.set_title(panel)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    _fit(axes[0], numbers)
    for axis, panel in zip(axes, panels, strict=False):
        _draw_diverged(axis, numbers[numbers["panel"] == panel], arms)
    setting = str(numbers["setting"].iloc[0]).replace("_", " ")
    for index, axis in enumerate(axes[: len(panels)]):
        is_lowest = index + columns >= len(panels)
        axis.set_xlabel(setting if is_lowest else "")
        axis.tick_params(labelbottom=is_lowest)
        axis.set_ylabel("validation loss" if index % columns == 0 else "")
    _legend(drawn, axes[: len(panels)], set(numbers["state"]))
    detail = _detail(numbers)
    style.title(drawn, f"Which {setting} does each arm choose?", detail)
    return (
        drawn,
        numbers,
        f"{detail[0].upper()}{detail[1:]}; no verdict uses these seeds. {_ends(plan.selections)}".strip(),
    )


def table(plan: Plan) -> pd.DataFrame:
    """Return a row per tuning run: where, arm, value, seed, loss (infinite: diverged), mean, whether it was chosen."""
    arm = (plan.study.comparison or Comparison()).arm
    rows = []
    for item in plan.selections:
        others = {axis: value for axis, value in item.labels.items() if axis != arm}
        about = {
            "panel": ", ".join(f"{setting_of(axis)} {value}" for axis, value in others.items()),
            "arm": str(item.labels.get(arm, "")),
            "setting": item.setting,
        }
        for tried in item.tried:
            for run, loss in zip(tried.runs, tried.losses, strict=True):
                seed = plan[run].labels.get(plan.study.replicate) if run in plan else None
                found = {"value": tried.value, "seed": seed, "run_id": run, "loss": loss, "mean": tried.mean}
                rows.append({**about, **found, "is_chosen": tried.value == item.value, "state": item.state})
    table = pd.DataFrame(rows)
    return table if table.empty else table.astype({"loss": "float64", "mean": "float64"})


def _draw_panel(axis: Axes, numbers: pd.DataFrame, arms: Sequence[str]) -> None:
    """Draw each arm's means as a curve, its seeds as pale dots, and a ring around what it chose."""
    for arm, curve in numbers.groupby("arm", sort=False):
        colour, marker = _look(arms, str(arm))
        finite = curve[curve["loss"] < math.inf]
        means = curve[curve["mean"] < math.inf].drop_duplicates("value")
        axis.plot(means["value"], means["mean"], color=colour, marker=marker, label=str(arm) or "all arms")
        if curve["seed"].nunique() > 1:
            axis.plot(finite["value"], finite["loss"], ".", color=colour, alpha=0.5, markersize=5)
        chosen = means[means["is_chosen"]]
        for state, some in chosen.groupby("state"):
            axis.plot(some["value"], some["mean"], **RING, marker=RINGS[str(state)][0])


RINGS = {"chosen": ("o", "chosen"), "on the edge": ("s", "chosen, on the edge of its grid")}
"""Around what was chosen, by the state of the selection: marker and name."""
RING: dict[str, Any] = {
    "linestyle": "none",
    "markersize": 12,
    "markerfacecolor": "none",
    "markeredgecolor": style.BLACK,
    "markeredgewidth": 1.3,
    "zorder": 5,
}


def _fit(axis: Axes, numbers: pd.DataFrame) -> None:
    """Leave room above for what diverged, and make a wide range logarithmic."""
    style.loss_axis(axis)
    if (numbers["loss"] == math.inf).any():
        low, high = axis.get_ylim()
        is_log = axis.get_yscale() == "log"
        axis.set_ylim(low, high * (high / low) ** 0.12 if is_log else high + 0.12 * (high - low))


def _draw_diverged(axis: Axes, numbers: pd.DataFrame, arms: Sequence[str]) -> None:
    """Mark at the top where runs diverged."""
    for arm, curve in numbers[numbers["loss"] == math.inf].groupby("arm", sort=False):
        colour, _ = _look(arms, str(arm))
        heights = [TOP] * len(curve)
        axis.plot(curve["value"], heights, "x", color=colour, transform=axis.get_xaxis_transform(), markersize=6)


def _legend(drawn: Figure, axes: Iterable[Axes], states: set[str]) -> None:
    """Name every arm of any panel once, and the rings."""
    from matplotlib.lines import Line2D

    named: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    named |= {name: Line2D([], [], **RING, marker=mark) for state, (mark, name) in RINGS.items() if state in states}
    drawn.legend([*named.values()], [*named], loc="outside lower center", ncols=min(5, len(named)))


def _look(arms: Sequence[str], arm: str) -> tuple[str, str]:
    return style.arm_style(arms, arm) if arm in arms else (style.GREY, "x")


def _detail(numbers: pd.DataFrame) -> str:
    seeds = numbers["seed"].nunique()
    shown = "one tuning seed" if seeds == 1 else f"mean over {seeds} tuning seeds, which are the dots"
    crosses = "; crosses: diverged" if (numbers["loss"] == math.inf).any() else ""
    return f"validation loss at the last step, {shown}{crosses}"


def _ends(selections: Iterable[Selection]) -> str:
    """Say which choices lie on an edge, and which are open."""
    found = [item for item in selections if item.state != "chosen"]
    told = [f"{item.where}: {item.state}{f' ({written(item.value)})' if item.value else ''}" for item in found]
    return f"Not settled inside its grid: {'; '.join(told)}." if told else ""
