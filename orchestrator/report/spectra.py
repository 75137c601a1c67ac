"""Figures of the teacher's change itself, from what its export measured: how fast it decays, and in which layers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from orchestrator.report import style
from orchestrator.report.material import Drawn, Material


def spectrum(material: Material) -> Drawn | None:
    """How fast does the teacher's change decay? Singular values by layer type."""
    path = material.of_export("spectrum.csv")
    sigma = pd.read_csv(path) if path else pd.DataFrame()
    if sigma.empty:
        return None
    layers = sigma.groupby("type", sort=False)["layer"].nunique()
    middle = sigma.groupby(["type", "index"], sort=False)["sigma"].median().reset_index()
    drawn, (axis,) = style.figure(width=6.8, height=4.2)
    for place, (kind, values) in enumerate(middle.groupby("type", sort=False)):
        axis.plot(_from_one(values["index"]), values["sigma"], label=str(kind), **_type_line(place))
    axis.set_yscale("log")
    style.rank_axis(axis, _ticks(material, int(_from_one(middle["index"]).max())))
    axis.set_xlim(1, float(_from_one(middle["index"]).max()))
    axis.set_xlabel("index (ticks: the study's ranks)")
    axis.set_ylabel("singular value of ΔW")
    style.legend(drawn, axis, beside=True)
    count = f"{layers.min()}" if layers.min() == layers.max() else f"{layers.min()} to {layers.max()}"
    detail = f"singular values, median of {count} layers per type"
    style.title(drawn, "How fast does the teacher's change decay?", detail)
    caption = f"Singular values of the teacher's weight change by layer type, median of {count} layers each."
    return Drawn(drawn, middle, caption)


def layers(material: Material) -> Drawn | None:
    """Which layers does a rank serve? The part of the change's energy it keeps, by layer type."""
    kept = energy_by_type(material)
    ranks = [rank for rank in material.ranks if material.selection.has({"rank": rank}) and f"energy_{rank}" in kept]
    if kept.empty or not ranks:
        return None
    drawn, (axis,) = style.figure(width=6.8, height=1.5 + 0.32 * len(kept))
    for place, rank in enumerate(ranks):
        shade, marker = style.rank_style(material.ranks, rank)
        look: dict[str, Any] = {"color": shade, "label": f"rank {rank}", "zorder": 3 + place}
        axis.plot(kept[f"energy_{rank}"], range(len(kept)), marker, **look)
    axis.set_yticks(range(len(kept)), list(kept["type"]))
    axis.set_ylim(len(kept) - 0.5, -0.5)
    axis.set_xlim(0, 1.02)
    axis.set_xlabel("energy kept (part of ||ΔW||²)")
    style.legend(drawn, axis)
    count = int(kept["layers"].sum())
    style.title(drawn, "Which layers does a rank serve?", f"energy kept of {count} layers, pooled by type")
    shown = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
    caption = f"Energy of the teacher's change kept at {shown} by layer type, pooled over {count} layers."
    return Drawn(drawn, kept[["type", "layers", *(f"energy_{rank}" for rank in ranks)]], caption)


def energy_by_type(material: Material) -> pd.DataFrame:
    """Return, by layer type: layers, relative change, share of ||dW||^2, and the pooled energy at every known rank.

    Pooled: the sum of the kept sigma^2 over the type's layers, over the sum of their ||dW||^2. Empty without an export.
    """
    path = material.of_export("layers.csv")
    table = pd.read_csv(path) if path else pd.DataFrame()
    if table.empty:
        return table
    energies = [name for name in table if str(name).startswith("energy_")]
    change, weight = table["delta_norm"] ** 2, table["weight_norm"] ** 2
    kinds = table["type"]
    sums = pd.DataFrame({"change": change, "weight": weight}).groupby(kinds, sort=False).sum()
    pooled = table[energies].mul(change, axis=0).groupby(kinds, sort=False).sum().div(sums["change"], axis=0)
    about = pd.DataFrame(
        {
            "layers": kinds.groupby(kinds, sort=False).size(),
            "relative_delta": (sums["change"] / sums["weight"]) ** 0.5,
            "share": sums["change"] / change.sum(),
        }
    )
    return about.join(pooled).reset_index()


def _type_line(place: int) -> dict[str, Any]:
    colours = style.TYPE_COLOURS
    return {"color": colours[place % len(colours)], "linestyle": style.DASHES[place // len(colours) % 3]}


def _from_one(index: pd.Series[Any]) -> pd.Series[Any]:
    return index + 1 if index.min() == 0 else index


def _ticks(material: Material, last: int) -> list[float]:
    ticks = sorted({1.0, *(float(rank) for rank in material.ranks if rank <= last)})
    return [*ticks, float(last)] if last >= 1.5 * ticks[-1] else ticks
