"""The report's figures: one question each, in the title with its n; the numbers behind each beside it as CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

from orchestrator import statistics
from orchestrator.report import selection_figure, style
from orchestrator.report.material import Drawn, Material
from orchestrator.report.outcomes import outcomes
from orchestrator.report.panels import panels
from orchestrator.report.spectra import layers, spectrum
from orchestrator.report.summary import Difference, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Draw: TypeAlias = Callable[[Material], Drawn | None]


# -- loss curves ------------------------------------------------------------------------------------------


def loss_curves(material: Material) -> Drawn | None:
    """How fast do the arms learn? Held-out loss against step, one panel per rank (or per arm: see `panels`)."""
    curves = _curves(material)
    if curves.empty:
        return None
    of_panel = panels(curves, material.every_arm)
    drawn, axes = of_panel.figure(height=0.9, share_x=not of_panel.is_by_arm)
    for axis, shown in zip(axes, of_panel.shown.values(), strict=True):
        _draw_panel(axis, shown, material)
    style.loss_axis(axes[0])
    teacher, columns = _teacher_loss(material), style.columns_for(len(axes))
    for index, axis in enumerate(axes if teacher is not None else []):
        is_last = index % columns == columns - 1
        style.rule(axis, teacher or 0.0, f"teacher\n{teacher:.3g}" if is_last else "")
    of_panel.label(axes, "training step", "held-out loss")
    style.legend(drawn, axes[0], of_panel.named(material.every_arm))
    detail = f"mean and 95 % t interval over {_runs(curves['n'])} per arm"
    style.title(drawn, f"How fast does each {material.summary.arm_name} learn?", detail)
    caption = f"Held-out loss during training, {detail}."
    return Drawn(drawn, curves, caption)


def _curves(material: Material) -> pd.DataFrame:
    """Return panel, arm, step, mean, low, high, n of the held-out loss; failed runs are not in it."""
    found = []
    for group, rows in material.cells():
        panel = ", ".join(f"{name} {value}" for name, value in group.items())
        for arm in material.arms:
            mine = material.family.rows_of(arm, rows) if arm else rows
            for step, values in sorted(_by_step(material, mine).items()):
                found.append({"panel": panel, "arm": arm, "step": step, **_spread(values)})
    return pd.DataFrame(found)


def _by_step(material: Material, rows: pd.DataFrame) -> dict[int, list[float]]:
    values: dict[int, list[float]] = {}
    for run_id in rows[rows["status"] == "done"]["run_id"]:
        for row in material.records[run_id].history_rows():
            if "eval_loss" in row:
                values.setdefault(int(row["step"]), []).append(row["eval_loss"])
    return values


def _draw_panel(axis: Axes, curves: pd.DataFrame, material: Material) -> None:
    for arm, curve in curves.groupby("arm", sort=False):
        line = style.arm_line(material.every_arm, str(arm))
        axis.plot(curve["step"], curve["mean"], label=str(arm), **line)
        axis.fill_between(curve["step"], curve["low"], curve["high"], color=line["color"], alpha=0.2, linewidth=0)


def _teacher_loss(material: Material) -> float | None:
    """Return the final held-out loss of the one teacher; None where there are several, or it was given."""
    teachers = [run for run in material.plan.of_stage("teacher") if run.id in material.records]
    losses = [material.records[run.id].metrics.get("final_eval_loss") for run in teachers]
    known = [float(loss) for loss in losses if isinstance(loss, int | float)]
    return known[0] if len(known) == 1 else None


# -- outcome against rank ---------------------------------------------------------------------------------


def outcome_by_rank(material: Material) -> Drawn | None:
    """At which rank does it matter? The primary outcome against rank, with base, teacher and the untrained SVD."""
    summary = material.summary
    key = "accuracy" if summary.metric == "test_accuracy" else "test_loss"
    lines = [line for line in material.lines if key in line.numbers]
    numbers = pd.DataFrame([{"line": line.label, **line.group, **line.numbers[key].model_dump()} for line in lines])
    if summary.group_names != ["rank"] or len({line.group["rank"] for line in lines if line.kind == "arm"}) < 2:
        return None
    drawn, (axis,) = style.figure(width=6.4, height=4.2)
    for arm in material.arms:
        mine = [line for line in lines if line.kind == "arm" and line.label == (arm or line.label)]
        _draw_against_rank(axis, mine, key, arm, style.arm_line(material.every_arm, arm))
    untrained = [line for line in lines if line.kind == "untrained"]
    _draw_against_rank(axis, untrained, key, "svd, untrained", {"color": style.GREY, "marker": "x", "linestyle": ":"})
    style.rank_axis(axis, sorted({_rank(line) for line in lines if line.group}))
    _draw_references(axis, lines, key)
    axis.set_xlabel("rank")
    axis.set_ylabel("answers right" if key == "accuracy" else "test loss")
    style.legend(drawn, axis)
    runs = _runs(pd.Series([line.numbers[key].n for line in lines if line.kind == "arm"]))
    detail = f"mean and 95 % t interval over {runs} per arm"
    style.title(drawn, f"At which rank does the {summary.arm_name} matter?", detail)
    caption = f"{axis.get_ylabel().capitalize()} against rank, {detail}."
    return Drawn(drawn, numbers, caption)


def _draw_against_rank(axis: Axes, lines: list[Line], key: str, label: str, look: dict[str, Any]) -> None:
    if not lines:
        return
    ranks, values = [_rank(line) for line in lines], [line.numbers[key] for line in lines]
    axis.plot(ranks, [value.mean for value in values], label=label, **look)
    lows = [value.mean if value.low is None else value.low for value in values]
    highs = [value.mean if value.high is None else value.high for value in values]
    axis.fill_between(ranks, lows, highs, color=look["color"], alpha=0.2, linewidth=0)


def _draw_references(axis: Axes, lines: list[Line], key: str) -> None:
    """Draw teacher and base as labelled rules; a base far above the rest is named at the edge instead."""
    ends = {line.kind: line.numbers[key].mean for line in lines if not line.group}
    low, high = axis.get_ylim()
    if "teacher" in ends:
        style.rule(axis, ends["teacher"], f"teacher\n{ends['teacher']:.3g}")
        low, high = min(low, ends["teacher"]), max(high, ends["teacher"])
    base = ends.get("base")
    if base is None:
        return
    if base <= high + (high - low) and base >= low - (high - low):
        style.rule(axis, base, f"base model\n{base:.3g}", colour=style.GREY)
    else:
        style.off_scale(axis, f"base\nmodel {base:.3g}")


def _rank(line: Line) -> float:
    rank = line.group["rank"]
    assert isinstance(rank, int | float)
    return float(rank)


# -- paired differences -----------------------------------------------------------------------------------


def differences(material: Material) -> Drawn | None:
    """Is the difference real? Every pair's difference, and the interval of their mean, in each group."""
    shown = [item for item in material.summary.differences if material.selection.has(item.group)]
    found = [item for item in shown if item.estimate and item.arm in material.arms]
    if not found:
        return None
    panels = panels_of(found)
    columns = style.columns_for(len(panels))
    rows, tallest = -(-len(panels) // columns), max(map(len, panels.values()))
    width = 6.4 if columns == 1 else 2.4 + 2.2 * columns
    drawn, axes = style.figure(columns, rows, width=width, height=1.4 + rows * (0.25 + 0.45 * tallest))
    for axis, (name, items) in zip(axes, panels.items(), strict=False):
        _draw_differences(axis, items, material, "arm" if name else "group")
        axis.set_title(name)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    metric = material.summary.metric.replace("_", " ")
    compared = {item.arm for item in found}
    arms = f"{min(compared) if len(compared) == 1 else 'arm'} − {found[0].baseline}"
    drawn.supxlabel(f"difference in {metric}, {arms}", fontsize="medium")
    is_by_item = any(item.unit == "item" for item in found)
    counted = _runs(pd.Series([len(item.pairs) for item in found]), "item" if is_by_item else "pair")
    dots = "dots, each averaged over its runs" if is_by_item else "dots"
    style.title(drawn, "Is the difference real?", f"{counted} ({dots}), their mean and its 95 % interval")
    methods = " or ".join(sorted({item.interval_method for item in found if item.interval_method}))
    caption = (
        f"Paired differences in {metric} ({arms}): {counted} ({dots}), their mean and its 95 % interval "
        f"({methods or 'none'}); left of 0 the arm is lower."
    )
    values = [{"group": _named(item), "arm": item.arm, "difference": pair} for item in found for pair in item.pairs]
    return Drawn(drawn, pd.DataFrame(values), caption)


def panels_of(found: Sequence[Difference]) -> dict[str, list[Difference]]:
    """Return the differences by panel: a panel for each group where both arms and groups are several, else one."""
    names = list(dict.fromkeys(_named(item) for item in found))
    if len({item.arm for item in found}) == 1 or len(names) == 1:
        return {names[0] if len(names) == 1 and len(found) > 1 else "": list(found)}
    return {name: [item for item in found if _named(item) == name] for name in names}


def _draw_differences(axis: Axes, items: Sequence[Difference], material: Material, row: str) -> None:
    for place, item in enumerate(items):
        colour, marker = style.arm_style(material.every_arm, item.arm)
        assert item.estimate is not None
        low = item.estimate.mean if item.estimate.low is None else item.estimate.low
        high = item.estimate.mean if item.estimate.high is None else item.estimate.high
        dots: dict[str, Any] = {"color": colour, "alpha": 0.45, "markersize": style.points(4)}
        axis.plot(item.pairs, [place + 0.2] * len(item.pairs), "o", **dots)
        axis.plot([low, high], [place, place], color=colour, linewidth=style.points(2.2))
        look: dict[str, Any] = {"marker": marker, "color": colour, "markersize": style.points(7), "linestyle": "none"}
        axis.plot([item.estimate.mean], [place], **look)
    axis.axvline(0, color=style.BLACK, linewidth=style.points(1.0))
    axis.set_yticks(range(len(items)), [item.arm if row == "arm" else _named(item) for item in items])
    axis.set_ylim(len(items) - 0.5, -0.5)


def _named(item: Difference) -> str:
    return ", ".join(f"{name} {value}" for name, value in item.group.items())


# -- small things -----------------------------------------------------------------------------------------


def _spread(values: list[float]) -> dict[str, float | int]:
    estimate = statistics.mean_interval(values)
    interval = estimate.interval
    low, high = (interval.low, interval.high) if interval else (float("nan"), float("nan"))
    return {"mean": estimate.mean, "low": low, "high": high, "n": estimate.n}


def _runs(counts: pd.Series[Any], noun: str = "run") -> str:
    low, high = int(counts.min()), int(counts.max())
    shown = f"{high}" if low == high else f"{low} to {high}"
    return f"{shown} {noun}{'' if high == 1 else 's'}"


def selection(material: Material) -> Drawn | None:
    """Which rate did each arm choose? See `selection_figure`."""
    drawn = selection_figure.draw(material.plan, material.every_arm, material.shows)
    return None if drawn is None else Drawn(*drawn)


FIGURES: Mapping[str, Draw] = {
    "selection": selection,
    "loss_curves": loss_curves,
    "outcome_by_rank": outcome_by_rank,
    "outcomes": outcomes,
    "differences": differences,
    "spectrum": spectrum,
    "layers": layers,
}
