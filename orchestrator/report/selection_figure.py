"""Which value did each arm choose, and how clearly? Validation loss against the value, with the point of every seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

from orchestrator.plan import Plan
from orchestrator.report import style
from orchestrator.report.panels import panels
from orchestrator.selection import Selection, written
from orchestrator.study import Comparison, setting_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Shows: TypeAlias = Callable[[Mapping[str, Any], str], bool]
"""Says of a group (rank 4) and an arm whether they are drawn."""
Drawing: TypeAlias = "tuple[Figure, pd.DataFrame, str]"
TOP = 0.97
"""Height, as a share of the panel, at which a run that diverged is drawn."""


def draw(plan: Plan, arms: Sequence[str], shows: Shows = lambda _group, _arm: True) -> Drawing | None:
    """Return the figure, its numbers (`table`) and its caption; None where nothing is selected or nothing was tried."""
    numbers = table(plan, shows)
    if numbers.empty or numbers["loss"].isna().all():
        return None
    of_panel = panels(numbers, arms)
    drawn, axes = of_panel.figure(height=1.2)
    for axis, shown in zip(axes, of_panel.shown.values(), strict=True):
        axis.set_xscale("log")
        _draw_panel(axis, shown, arms)
    _fit(axes[0], numbers)
    for axis, shown in zip(axes, of_panel.shown.values(), strict=True):
        _draw_diverged(axis, shown, arms)
    setting = str(numbers["setting"].iloc[0]).replace("_", " ")
    of_panel.label(axes, setting, "validation loss")
    _legend(drawn, axes, of_panel.named(list(dict.fromkeys(numbers["arm"]))), set(numbers["state"]))
    detail = _detail(numbers)
    style.title(drawn, f"Which {setting} does each arm choose?", detail)
    return (
        drawn,
        numbers,
        f"{detail[0].upper()}{detail[1:]}; no verdict uses these seeds. {_ends(plan.selections)}".strip(),
    )


def table(plan: Plan, shows: Shows = lambda _group, _arm: True) -> pd.DataFrame:
    """Return a row per tuning run: where, arm, value, seed, loss (infinite: diverged), mean, whether it was chosen."""
    arm = (plan.study.comparison or Comparison()).arm
    rows = []
    for item in plan.selections:
        others = {setting_of(axis): value for axis, value in item.labels.items() if axis != arm}
        if not shows(others, str(item.labels.get(arm, ""))):
            continue
        about = {
            "panel": ", ".join(f"{setting} {value}" for setting, value in others.items()),
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
            axis.plot(finite["value"], finite["loss"], ".", color=colour, alpha=0.5, markersize=style.points(5))
        chosen = means[means["is_chosen"]]
        for state, some in chosen.groupby("state"):
            axis.plot(some["value"], some["mean"], **_ring(), marker=RINGS[str(state)][0])


RINGS = {"chosen": ("o", "chosen"), "on the edge": ("s", "chosen, on the edge of its grid")}
"""Around what was chosen, by the state of the selection: marker and name."""


def _ring() -> dict[str, Any]:
    return {
        "linestyle": "none",
        "markersize": style.points(12),
        "markerfacecolor": "none",
        "markeredgecolor": style.BLACK,
        "markeredgewidth": style.points(1.3),
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
        axis.plot(
            curve["value"], heights, "x", color=colour, transform=axis.get_xaxis_transform(), markersize=style.points(6)
        )


def _legend(drawn: Figure, axes: Iterable[Axes], arms: Sequence[str], states: set[str]) -> None:
    """Name every one of these arms once, and the rings."""
    from matplotlib.lines import Line2D

    named: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    named = {name: handle for name, handle in named.items() if name in arms or not any(arms)}
    named |= {name: Line2D([], [], **_ring(), marker=mark) for state, (mark, name) in RINGS.items() if state in states}
    drawn.legend([*named.values()], [*named], loc="outside lower center", ncols=style.legend_columns(drawn, [*named]))


def _look(arms: Sequence[str], arm: str) -> tuple[str, str]:
    return style.arm_style(arms, arm) if arm in arms else (style.GREY, "x")


def _detail(numbers: pd.DataFrame) -> str:
    seeds = numbers["seed"].nunique()
    fewest = numbers.groupby(["panel", "arm", "value"])["run_id"].nunique().min()
    count = f"{seeds}" if fewest == seeds else f"{fewest} to {seeds}"
    shown = "one tuning seed" if seeds == 1 else f"mean over {count} tuning seeds, which are the dots"
    crosses = "; crosses: diverged" if (numbers["loss"] == math.inf).any() else ""
    return f"validation loss at the last step, {shown}{crosses}"


def _ends(selections: Iterable[Selection]) -> str:
    """Say which choices lie on an edge, and which are open."""
    found = [item for item in selections if item.state != "chosen"]
    told = [f"{item.where}: {item.state}{f' ({written(item.value)})' if item.value else ''}" for item in found]
    return f"Not settled inside its grid: {'; '.join(told)}." if told else ""
