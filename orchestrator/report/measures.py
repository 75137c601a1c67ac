"""The columns of the comparison: what each is called, where it comes from, and how it is written. Declared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """One column. `source` is a column of results.csv; empty where it is computed from several.

    `places` are the decimals of a single value, which has no interval to say how many it deserves; `meaning` says what
    is measured where the title alone does not.
    """

    key: str
    title: str
    source: str = ""
    form: Literal["loss", "percent", "count", "seconds"] = "loss"
    short: str = ""
    places: int | None = None
    meaning: str = ""

    @property
    def heading(self) -> str:
        """The title for a narrow table."""
        return self.short or self.full_title

    @property
    def full_title(self) -> str:
        """The title with its unit."""
        return f"{self.title} (%)" if self.form == "percent" else self.title


MEASURES: Sequence[Measure] = (
    Measure("initial_loss", "initial loss", "initial_eval_loss"),
    Measure("final_loss", "final loss", "final_eval_loss"),
    Measure("best_loss", "best loss", "best_eval_loss", meaning="the lowest held-out loss during training"),
    Measure("test_loss", "test loss", "test_loss"),
    Measure("accuracy", "answers right", "test_accuracy", "percent", "right %", places=0),
    Measure(
        "distance_to_teacher",
        "distance to the teacher",
        "distance_to_teacher",
        short="distance",
        meaning="‖W − W(teacher)‖ / ‖ΔW‖ over the compared layers",
    ),
    Measure(
        "subspace_overlap",
        "overlap with the teacher's subspace",
        "subspace_overlap",
        "percent",
        "overlap %",
        meaning="mean squared cosine between the leading singular subspaces of both changes",
    ),
    Measure(
        "intruder_dimensions",
        "intruder dimensions",
        "intruder_dimensions",
        short="intruders",
        meaning="leading singular vectors of a layer, of ten, that the base has nothing like",
    ),
    Measure(
        "forgetting_loss",
        "loss on other text",
        "forgetting_loss",
        meaning="nats per token of a text that no fine-tuning saw",
    ),
    Measure(
        "oscillation",
        "oscillation",
        "oscillation",
        meaning="standard deviation of the training loss about a smooth trend",
    ),
    Measure("gap_closed", "gap closed", "", "percent", "gap %", places=1),
    Measure("energy", "energy kept", "", "percent", places=1, meaning="part of ‖ΔW‖² that the truncation keeps"),
    Measure("parameters", "trainable parameters", "trainable_parameters", "count"),
    Measure("share", "trainable share", "trainable_share", "percent"),
    Measure("seconds", "seconds", "seconds", "seconds", meaning="wall time of a training run, evaluations included"),
)
BY_KEY = {measure.key: measure for measure in MEASURES}
