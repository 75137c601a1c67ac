"""The report's figures: one question each, in the title with its n; the numbers behind each beside it as CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

from orchestrator import statistics
from orchestrator.plan import Plan
from orchestrator.report import selection_figure, style
from orchestrator.report.family import Family
from orchestrator.report.summary import Line, Summary
from orchestrator.results import write_csv
from orchestrator.store import Record, Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Material:
    """What figures are drawn from."""

    plan: Plan
    store: Store
    records: Mapping[str, Record]
    family: Family
    summary: Summary

    @property
    def arms(self) -> list[str]:
        """The arms, the baseline first; one nameless arm where the study compares none."""
        return self.family.arms or [""]


@dataclass(frozen=True)
class Drawn:
    """A figure, the numbers in it, and what it shows in a sentence."""

    figure: Figure
    numbers: pd.DataFrame
    caption: str


Draw: TypeAlias = Callable[[Material], Drawn | None]


def write_all(material: Material, folder: Path) -> dict[str, str]:
    """Write every figure that there are numbers for, as PNG and CSV; return name -> caption."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = {}
    with style.house_rules():
        for name, draw in FIGURES.items():
            for path in (folder / f"{name}.png", folder / f"{name}.csv"):
                path.unlink(missing_ok=True)
            drawn = draw(material)
            if drawn is not None:
                style.save(drawn.figure, folder / f"{name}.png")
                write_csv(drawn.numbers, folder / f"{name}.csv")
                captions[name] = drawn.caption
    return captions


# -- loss curves ------------------------------------------------------------------------------------------


def loss_curves(material: Material) -> Drawn | None:
    """How fast do the arms learn? Held-out loss against step, one panel per rank."""
    curves = _curves(material)
    if curves.empty:
        return None
    panels = list(dict.fromkeys(curves["panel"]))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    drawn, axes = style.figure(columns, rows, width=2.0 + 2.6 * columns, height=0.9 + 2.6 * rows)
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, curves[curves["panel"] == panel], material)
        axis.set_title(panel)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    style.loss_axis(axes[0])
    teacher = _teacher_loss(material)
    for index, axis in enumerate(axes[: len(panels)] if teacher is not None else []):
        is_last = index % columns == columns - 1
        style.rule(axis, teacher or 0.0, f"teacher\n{teacher:.3g}" if is_last else "")
    for index in range(len(panels)):
        is_lowest = index + columns >= len(panels)
        axes[index].set_xlabel("training step" if is_lowest else "")
        axes[index].tick_params(labelbottom=is_lowest)
        axes[index].set_ylabel("held-out loss" if index % columns == 0 else "")
    style.legend(drawn, axes[0])
    detail = f"mean and 95 % t interval over {_runs(curves['n'])} per arm"
    style.title(drawn, "How fast does each init learn?", detail)
    caption = f"Held-out loss during training, {detail}."
    return Drawn(drawn, curves, caption)


def _curves(material: Material) -> pd.DataFrame:
    """Return panel, arm, step, mean, low, high, n of the held-out loss; failed runs are not in it."""
    found = []
    for group, rows in material.family.cells():
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
        colour, marker = style.arm_style(material.arms, str(arm))
        axis.plot(curve["step"], curve["mean"], color=colour, marker=marker, label=str(arm))
        axis.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.2, linewidth=0)


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
    lines = [line for line in summary.lines if key in line.numbers]
    numbers = pd.DataFrame([{"line": line.label, **line.group, **line.numbers[key].model_dump()} for line in lines])
    if summary.group_names != ["rank"] or not any(line.kind == "arm" for line in lines):
        return None
    drawn, (axis,) = style.figure(width=6.4, height=4.2)
    for arm in material.arms:
        mine = [line for line in lines if line.kind == "arm" and line.label == (arm or line.label)]
        colour, marker = style.arm_style(material.arms, arm)
        _draw_against_rank(axis, mine, key, arm, {"color": colour, "marker": marker, "linestyle": "-"})
    untrained = [line for line in lines if line.kind == "untrained"]
    _draw_against_rank(axis, untrained, key, "svd, untrained", {"color": style.GREY, "marker": "x", "linestyle": ":"})
    style.rank_axis(axis, sorted({_rank(line) for line in lines if line.group}))
    _draw_references(axis, lines, key)
    axis.set_xlabel("rank")
    axis.set_ylabel("answers right" if key == "accuracy" else "test loss")
    style.legend(drawn, axis)
    runs = _runs(pd.Series([line.numbers[key].n for line in lines if line.kind == "arm"]))
    detail = f"mean and 95 % t interval over {runs} per arm"
    style.title(drawn, "At which rank does the init matter?", detail)
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
    found = [item for item in material.summary.differences if item.estimate]
    if not found:
        return None
    drawn, (axis,) = style.figure(width=6.4, height=1.6 + 0.45 * len(found))
    names, rows = [], []
    for place, item in enumerate(found):
        colour, marker = style.arm_style(material.arms, item.arm)
        assert item.estimate is not None
        low = item.estimate.mean if item.estimate.low is None else item.estimate.low
        high = item.estimate.mean if item.estimate.high is None else item.estimate.high
        axis.plot(item.pairs, [place + 0.2] * len(item.pairs), "o", color=colour, alpha=0.45, markersize=4)
        axis.plot([low, high], [place, place], color=colour, linewidth=2.2)
        axis.plot([item.estimate.mean], [place], marker=marker, color=colour, markersize=7, linestyle="none")
        where = ", ".join(f"{name} {value}" for name, value in item.group.items())
        names.append(f"{where}\n{item.arm} − {item.baseline}" if len(material.arms) > 2 else where)
        rows += [{"group": where, "arm": item.arm, "difference": value} for value in item.pairs]
    axis.axvline(0, color=style.BLACK, linewidth=1.0)
    axis.set_yticks(range(len(found)), names)
    axis.set_ylim(len(found) - 0.5, -0.5)
    metric = material.summary.metric.replace("_", " ")
    arms = f"{found[0].arm} − {found[0].baseline}" if len(material.arms) <= 2 else "arm − baseline"
    axis.set_xlabel(f"difference in {metric}, {arms}")
    pairs = _runs(pd.Series([len(item.pairs) for item in found]), "pair")
    style.title(drawn, "Is the difference real?", f"{pairs} (dots), their mean and its 95 % interval")
    methods = " or ".join(sorted({item.interval_method for item in found if item.interval_method}))
    caption = f"Paired differences in {metric} ({arms}), {pairs} each; interval: {methods or 'none'}."
    return Drawn(drawn, pd.DataFrame(rows), caption)


# -- spectrum ---------------------------------------------------------------------------------------------


def spectrum(material: Material) -> Drawn | None:
    """How fast does the teacher's change decay? Singular values by layer type."""
    path = _spectrum_file(material)
    if path is None:
        return None
    sigma = pd.read_csv(path)
    if sigma.empty:
        return None
    layers = sigma.groupby("type", sort=False)["layer"].nunique()
    middle = sigma.groupby(["type", "index"], sort=False)["sigma"].median().reset_index()
    drawn, (axis,) = style.figure(width=6.8, height=4.2)
    for place, (kind, values) in enumerate(middle.groupby("type", sort=False)):
        colour = style.TYPE_COLOURS[place % len(style.TYPE_COLOURS)]
        look = ("-", "--", ":")[place // len(style.TYPE_COLOURS) % 3]
        axis.plot(_from_one(values["index"]), values["sigma"], look, color=colour, label=str(kind))
    axis.set_yscale("log")
    style.rank_axis(axis, _ticks(material, int(_from_one(middle["index"]).max())))
    axis.set_xlim(1, float(_from_one(middle["index"]).max()))
    axis.set_xlabel("index of the singular value (ticks at the ranks of the study)")
    axis.set_ylabel("singular value of the teacher's change")
    style.legend(drawn, axis, beside=True)
    count = f"{layers.min()}" if layers.min() == layers.max() else f"{layers.min()} to {layers.max()}"
    style.title(
        drawn, "How fast does the teacher's change decay?", f"singular values, median of {count} layers per type"
    )
    caption = f"Singular values of the teacher's weight change by layer type, median of {count} layers each."
    return Drawn(drawn, middle, caption)


def _spectrum_file(material: Material) -> Path | None:
    """Return the spectrum of the largest export."""
    exports = [run for run in material.plan.of_stage("svd_export") if run.id in material.records]
    exports.sort(key=lambda run: float(getattr(run.config, "rank", 0)))
    paths = [material.store.artefact(run.id) / "spectrum.csv" for run in exports]
    return next((path for path in reversed(paths) if path.is_file()), None)


def _from_one(index: pd.Series[Any]) -> pd.Series[Any]:
    return index + 1 if index.min() == 0 else index


def _ticks(material: Material, last: int) -> list[float]:
    ranks = {float(value) for value in material.plan.study.axes.get("student.rank", ()) if isinstance(value, int)}
    return sorted({1.0, *(rank for rank in ranks if rank <= last)})


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
    drawn = selection_figure.draw(material.plan, material.arms)
    return None if drawn is None else Drawn(*drawn)


FIGURES: Mapping[str, Draw] = {
    "selection": selection,
    "loss_curves": loss_curves,
    "outcome_by_rank": outcome_by_rank,
    "differences": differences,
    "spectrum": spectrum,
}
