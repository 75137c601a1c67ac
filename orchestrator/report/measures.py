"""The columns of the comparison: what each is called, where it comes from, and how it is written. Declared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """One column. `source` is a column of results.csv; empty where it is computed from several.

    `places` are the decimals of a single value, which has no interval to say how many it deserves.
    """

    key: str
    title: str
    source: str = ""
    form: Literal["loss", "percent", "count", "seconds"] = "loss"
    short: str = ""
    places: int | None = None

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
    Measure("best_loss", "best loss", "best_eval_loss"),
    Measure("test_loss", "test loss", "test_loss"),
    Measure("accuracy", "answers right", "test_accuracy", "percent", "right %", places=0),
    Measure("distance_to_teacher", "distance to the teacher", "distance_to_teacher", short="distance"),
    Measure("subspace_overlap", "overlap with the teacher's subspace", "subspace_overlap", "percent", "overlap %"),
    Measure("intruder_dimensions", "intruder dimensions", "intruder_dimensions", short="intruders"),
    Measure("forgetting_loss", "loss on other text", "forgetting_loss"),
    Measure("oscillation", "oscillation", "oscillation"),
    Measure("gap_closed", "gap closed", "", "percent", "gap %", places=1),
    Measure("energy", "energy kept", "", "percent", places=1),
    Measure("parameters", "trainable parameters", "trainable_parameters", "count"),
    Measure("share", "trainable share", "trainable_share", "percent"),
    Measure("seconds", "seconds", "seconds", "seconds"),
)
BY_KEY = {measure.key: measure for measure in MEASURES}
