"""What a report says, as data: lines of the comparison, differences with their verdicts, and what is behind them.

`report.json` is this. Tables, the terminal and the Markdown are renderings of it, so that a finished report can
be shown again at once, without a library that computes.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from orchestrator.design import Method
from orchestrator.report.sections import Section
from orchestrator.study import Unit
from trainables.base import Scalar

Kind: TypeAlias = Literal["base", "teacher", "reference", "untrained", "arm"]
Verdict: TypeAlias = Literal[
    "supported", "contradicted", "equivalent", "inconclusive", "under-powered by design", "interim"
]


class Part(BaseModel):
    """A piece of a summary: frozen, and strict about what is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Number(Part):
    """A mean with its interval (95 %) and the number of values behind it. No interval: one value, or unbounded."""

    mean: float
    n: int
    low: float | None = None
    high: float | None = None


class Steps(Part):
    """Steps to target: the median (None: the middle run never got there, "> horizon") and how many reached it."""

    median: float | None
    reached: int
    n: int
    horizon: int


class Line(Part):
    """One line of the comparison: base, teacher, another reference, an SVD that was not trained, or an arm at one rank.

    `stage` is that of the runs behind base, teacher and reference. `lost` counts the runs that ended badly or are
    missing, by status.
    """

    label: str
    kind: Kind
    stage: str = ""
    group: dict[str, Scalar] = {}
    planned: int = 1
    done: int = 0
    lost: dict[str, int] = {}
    numbers: dict[str, Number] = {}
    steps: Steps | None = None


class Difference(Part):
    """Arm minus baseline in the primary outcome, paired.

    `p_adjusted` is over the whole family, `adjusted_by` that method; `p_equivalent` is the adjusted p of "within the
    margin". `pairs` are the differences of the `replicates`; `d_z` is their mean over their standard deviation.
    `unit` is what `pairs` and n count: replicates, or items with their differences averaged over runs.
    `decide` is the exact command that would decide what is not decided, `decide_why` what it rests on.
    """

    arm: str
    baseline: str
    group: dict[str, Scalar]
    pairs: list[float]
    replicates: list[str]
    planned: int
    estimate: Number | None
    interval_method: str
    p: float | None
    p_adjusted: float | None
    adjusted_by: Method | None
    p_equivalent: float | None
    d_z: float | None
    is_exact: bool
    verdict: Verdict
    sentence: str
    decide: str = ""
    decide_why: str = ""
    unit: Unit = "replicate"


class Quote(Part):
    """Arm against baseline in percent of the baseline's mean: what first users quote. Negative: the arm's is lower."""

    arm: str
    baseline: str
    group: dict[str, Scalar]
    initial_loss: Number | None
    steps: Number | None
    final_loss: Number | None


class Failure(Part):
    """A run that ended badly, why, and where its log is (relative to the store)."""

    name: str
    run_id: str
    status: str
    error: str
    log: str


class Summary(Part):
    """Everything a report says.

    `method` is how the family's p is adjusted when all its replicates are there, `counted` says what n counts.
    `arm_name` is what the compared axis is called in tables: init.
    """

    study: str
    scale: str
    description: str
    metric: str
    higher_is_better: bool
    alpha: float
    margin: float | None
    looks: list[int]
    family: int
    method: Method
    method_reason: str
    counted: str
    scope: str
    group_names: list[str]
    arm_name: str = "arm"
    target: str
    counts: dict[str, int]
    lines: list[Line]
    differences: list[Difference]
    quotes: list[Quote]
    gap_note: str
    design_note: str = ""
    failures: list[Failure]
    notes: list[str]
    figures: dict[str, str] = {}
    sections: list[Section] = []
