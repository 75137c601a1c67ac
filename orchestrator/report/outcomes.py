"""How does each arm end? The primary outcome of references and arms, one below the other, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from orchestrator.report import formatting, style
from orchestrator.report.material import Drawn, Material
from orchestrator.report.summary import Line, Number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def outcomes(material: Material) -> Drawn | None:
    """Draw base, teacher, further references and arms by group; None where the outcome is drawn against the rank."""
    summary = material.summary
    key = "accuracy" if summary.metric == "test_accuracy" else "test_loss"
    lines = [line for line in material.lines if key in line.numbers]
    arms = [line for line in lines if line.kind == "arm"]
    groups = {tuple(line.group.items()) for line in arms}
    if not arms or (len(groups) > 1 and summary.group_names == ["rank"]):
        return None
    drawn, (axis,) = style.figure(width=6.8, height=1.2 + 0.27 * len(lines))
    axis.set_xlim(*_range([line.numbers[key] for line in lines if line.kind != "base"], arms, key))
    for place, line in enumerate(lines):
        _draw(axis, place, line.numbers[key], _look(material, line))
    for place in range(1, len(lines)):
        if lines[place].group != lines[place - 1].group:
            axis.axhline(place - 0.5, color=style.GREY, linewidth=style.points(0.6))
            if len(groups) > 1:
                _name_group(axis, place, formatting.group(lines[place].group))
    for line in lines:
        if line.kind == "teacher":
            axis.axvline(
                line.numbers[key].mean, color=style.BLACK, linestyle="--", linewidth=style.points(1.1), zorder=1
            )
    axis.set_yticks(range(len(lines)), [line.label for line in lines])
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.set_xlabel("answers right" if key == "accuracy" else "test loss")
    counts = sorted({line.numbers[key].n for line in arms})
    detail = f"mean and 95 % t interval over {' to '.join(map(str, counts))} runs per arm; dashed: the teacher"
    style.title(drawn, f"How does each {summary.arm_name} end?", detail)
    numbers = [
        {"line": line.label, "kind": line.kind, **line.group, **line.numbers[key].model_dump()} for line in lines
    ]
    return Drawn(drawn, pd.DataFrame(numbers), f"{axis.get_xlabel().capitalize()}: {detail}.")


def _range(values: Sequence[Number], arms: Sequence[Line], key: str) -> tuple[float, float]:
    """Return the ends of the scale: all arms, and references within half as much again on either side."""
    ends = [end for line in arms for end in (line.numbers[key].mean, line.numbers[key].low, line.numbers[key].high)]
    known = [end for end in ends if end is not None]
    low, high = min(known), max(known)
    near = [value.mean for value in values if abs(value.mean - (low + high) / 2) <= high - low]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def _draw(axis: Axes, place: int, value: Number, look: dict[str, Any]) -> None:
    """Draw a mean with its interval; one beyond the scale as an arrow at its end, with its number."""
    low, high = axis.get_xlim()
    if not low <= value.mean <= high:
        is_high = value.mean > high
        text = f"{value.mean:.3g} →" if is_high else f"← {value.mean:.3g}"
        about = {"ha": "right" if is_high else "left", "va": "center", "fontsize": "small", "color": look["color"]}
        axis.annotate(text, (high if is_high else low, place), **about)
        return
    ends = [value.mean if end is None else end for end in (value.low, value.high)]
    axis.plot(ends, [place, place], color=look["color"], linewidth=style.points(2.0))
    axis.plot([value.mean], [place], linestyle="none", markersize=style.points(6), **look)


def _look(material: Material, line: Line) -> dict[str, Any]:
    if line.kind == "arm" and line.label in material.every_arm:
        colour, marker = style.arm_style(material.every_arm, line.label)
        return {"color": colour, "marker": marker}
    return {"color": style.GREY, "marker": "x" if line.kind == "untrained" else "d"}


def _name_group(axis: Axes, place: int, name: str) -> None:
    """Write what the lines from this one on have in common, at the right end of the first."""
    about: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": "small", "color": style.GREY}
    axis.annotate(name, (0.995, place), xycoords=("axes fraction", "data"), **about)
