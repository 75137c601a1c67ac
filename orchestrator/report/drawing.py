"""Figures on disk: every one as PNG, the numbers behind it beside it as CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from orchestrator.report import style
from orchestrator.report.material import Drawn, Written
from orchestrator.results import write_csv

Source = TypeVar("Source")


def write_all(
    figures: Mapping[str, Callable[[Source], Drawn | None]], source: Source, folder: Path
) -> dict[str, Written]:
    """Write every figure that `source` has numbers for, as PNG and CSV; return them by name."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    with style.house_rules():
        for name, draw in figures.items():
            for path in (folder / f"{name}.png", folder / f"{name}.csv"):
                path.unlink(missing_ok=True)
            drawn = draw(source)
            if drawn is not None:
                style.save(drawn.figure, folder / f"{name}.png")
                drawn.figure.set_layout_engine("none")  # laid out once for both pictures: half of their time
                write_csv(drawn.numbers, folder / f"{name}.csv")
                written[name] = Written(drawn.caption, style.as_svg(drawn.figure))
    return written
