"""The panel of function: what share of the tuned model's gain in held-out loss a rank keeps, beside its energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainables.export.figure_style import GREY, Panel, rank_axis
from trainables.export.spectrum import FunctionalGain, gain_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEGEND = 0.32
"""Height of the legend, relative to what is shown below it."""


def functional_gain(gains: Sequence[FunctionalGain]) -> Panel | None:
    """How much of the gain in loss does a rank keep? Shows the losses where there was no gain; None without ranks."""
    cut = [gain for gain in gains if gain.rank is not None]
    losses = {gain.label: gain.loss for gain in gains}
    if not cut:
        return None
    shares = [share for gain in cut if (share := gain_share(gains, gain.loss)) is not None]
    has_gain = bool(shares)
    rows = [
        (gain.label, gain.rank, _text(gain.energy), _text(gain.loss), _text(gain_share(gains, gain.loss)))
        for gain in gains
    ]

    def draw(axes: Axes) -> None:
        ranks = [gain.rank for gain in cut if gain.rank is not None]
        if has_gain:
            axes.plot(ranks, shares, color="#0072B2", marker="o", label="gain in loss")
            known = [(gain.rank, gain.energy) for gain in cut if gain.energy is not None]
            axes.plot(*zip(*known, strict=True), color="#E69F00", marker="s", label="energy")
            _draw_exported(axes, gains)
            axes.axhline(1, color=GREY, linestyle="--", linewidth=0.9, label="tuned")
            _make_room(axes, [0.0, 1.0, *shares, *(gain.energy or 0.0 for gain in gains)])
            axes.set_ylabel("share kept")
        else:
            axes.plot(ranks, [gain.loss for gain in cut], color="#0072B2", marker="o", label="truncated change")
            for label, look in (("base", ":"), ("tuned", "--")):
                if label in losses:
                    axes.axhline(losses[label], color=GREY, linestyle=look, linewidth=0.9, label=label)
            axes.set_ylabel("held-out loss")
        rank_axis(axes, ranks)

    reference = ", ".join(f"{label} {losses[label]:.3f}" for label in ("base", "tuned") if label in losses)
    question = "How much of the gain in loss does a rank keep?" if has_gain else "What does a rank do to the loss?"
    detail = f"held-out loss: {reference}{'' if has_gain else ', no gain'}"
    head = ["label", "rank", "energy", "loss", "gain_kept"]
    return Panel(
        "functional_gain", question, detail, draw, head, rows, legend_at="upper center" if has_gain else "best"
    )


def _make_room(axes: Axes, values: Sequence[float]) -> None:
    """Show all the values, and leave room above them for the legend."""
    low, high = min(values), max(values)
    axes.set_ylim(low, high + LEGEND * (high - low))
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])


def _draw_exported(axes: Axes, gains: Sequence[FunctionalGain]) -> None:
    """Draw ranks that differ from layer to layer as rules, as they have no place on the axis of ranks."""
    for gain in gains:
        share = gain_share(gains, gain.loss)
        if gain.rank is None and gain.energy is not None and share is not None:
            axes.axhline(share, color="#0072B2", linestyle=":", label=f"gain {gain.label}")
            axes.axhline(gain.energy, color="#E69F00", linestyle=":", label=f"energy {gain.label}")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"
