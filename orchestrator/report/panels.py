"""Panels of a figure: one for each group, or one for each arm where one group holds too many arms to tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from orchestrator.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 6
"""Curves in one panel that can be told apart."""


@dataclass(frozen=True)
class Panels:
    """What each panel shows, by its title; `is_by_arm` says that there is one for each arm, with the baseline in it."""

    shown: dict[str, pd.DataFrame]
    is_by_arm: bool

    def figure(self, *, height: float, share_x: bool = True) -> tuple[Figure, list[Axes]]:
        """Return a figure with as many axes as there are panels; `height` (inches) goes to title and legend."""
        columns = style.columns_for(len(self.shown))
        rows = -(-len(self.shown) // columns)
        each = (2.6, 1.9) if self.is_by_arm else (2.6, 2.6)
        size = {"width": 2.0 + each[0] * columns, "height": height + each[1] * rows}
        drawn, axes = style.figure(columns, rows, share_x=share_x, **size)
        for axis in axes[len(self.shown) :]:
            axis.set_visible(False)
        for axis, name in zip(axes, self.shown, strict=False):
            axis.set_title(name)
        return drawn, axes[: len(self.shown)]

    def label(self, axes: Sequence[Axes], x: str, y: str) -> None:
        """Name the scales once for each column and row of panels."""
        columns = style.columns_for(len(axes))
        for index, axis in enumerate(axes):
            is_lowest = index + columns >= len(axes)
            axis.set_xlabel(x if is_lowest else "")
            axis.tick_params(labelbottom=is_lowest or self.is_by_arm)
            axis.set_ylabel(y if index % columns == 0 else "")

    def named(self, arms: Sequence[str]) -> Sequence[str]:
        """Return the arms that the legend has to name: where panels name them, the baseline."""
        return arms[:1] if self.is_by_arm else arms


def panels(numbers: pd.DataFrame, arms: Sequence[str]) -> Panels:
    """Return the panels of a table with the columns panel and arm; `arms` are the study's, the baseline first."""
    of_panel = {str(name): rows for name, rows in numbers.groupby("panel", sort=False)}
    if len(of_panel) > 1 or numbers["arm"].nunique() <= MOST:
        return Panels(of_panel, is_by_arm=False)
    return Panels(dict(_by_arm(numbers, arms)), is_by_arm=True)


def _by_arm(numbers: pd.DataFrame, arms: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    for arm in dict.fromkeys(numbers["arm"]):
        if arm != arms[0]:
            yield str(arm), numbers[numbers["arm"].isin([arms[0], arm])]
