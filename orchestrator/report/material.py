"""What a figure is drawn from, and what drawing it gives: shared by all figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from orchestrator.plan import Plan
from orchestrator.record import Record
from orchestrator.report.family import Family
from orchestrator.report.summary import Line, Summary
from orchestrator.store import Store
from trainables.base import Scalar

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Selection:
    """The arms and ranks that a figure is to show; empty is all of them."""

    arms: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()

    def has(self, group: Mapping[str, Scalar]) -> bool:
        """Say whether a group (rank 4) is among them; what has no rank always is."""
        return not self.ranks or group.get("rank") is None or group["rank"] in self.ranks


@dataclass(frozen=True)
class Material:
    """What figures are drawn from, and which part of it they are to show; `command` is what made the report."""

    plan: Plan
    store: Store
    records: Mapping[str, Record]
    family: Family
    summary: Summary
    selection: Selection = Selection()
    command: str = ""

    @property
    def every_arm(self) -> list[str]:
        """All arms of the study, the baseline first: an arm's place here is its colour. One nameless arm if none."""
        return self.family.arms or [""]

    @property
    def arms(self) -> list[str]:
        """The arms to show."""
        return [arm for arm in self.every_arm if not self.selection.arms or arm in self.selection.arms]

    def shows(self, group: Mapping[str, Scalar], arm: str) -> bool:
        """Say whether an arm in a group is to be shown; what is of no single arm always is."""
        return self.selection.has(group) and (arm in self.arms or arm not in self.every_arm)

    @property
    def lines(self) -> list[Line]:
        """The lines of the comparison to show."""
        return [line for line in self.summary.lines if self.shows(line.group, line.label if line.kind == "arm" else "")]

    @property
    def ranks(self) -> list[int]:
        """The ranks of the study, ascending."""
        values = (line.group.get("rank") for line in self.summary.lines)
        return sorted({value for value in values if isinstance(value, int) and not isinstance(value, bool)})

    def of_export(self, name: str) -> Path | None:
        """Return a file of the largest export that has it; None where there is none."""
        exports = [run for run in self.plan.of_stage("svd_export") if run.id in self.records]
        exports.sort(key=lambda run: float(getattr(run.config, "rank", 0)))
        paths = [self.store.artefact(run.id) / name for run in exports]
        return next((path for path in reversed(paths) if path.is_file()), None)

    def cells(self) -> Iterator[tuple[dict[str, Scalar], pd.DataFrame]]:
        """Yield the groups to show with their rows, as `Family.cells` does."""
        return (cell for cell in self.family.cells() if self.selection.has(cell[0]))


@dataclass(frozen=True)
class Drawn:
    """A figure, the numbers in it, and what it shows in a sentence."""

    figure: Figure
    numbers: pd.DataFrame
    caption: str


@dataclass(frozen=True)
class Written:
    """What there is to say of a figure that was written: a sentence, and the picture as SVG."""

    caption: str
    svg: bytes
