"""What `compare` is asked, checked before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from orchestrator.errors import UserError

STEPS = ("step", "global_step", "training_step", "iteration", "training_iteration", "iter", "epoch")
"""Columns by which rows are taken for a curve's, where no --step says so."""
STAGE, PURPOSE = "stage", "purpose"
"""Columns of our own results: which stage of a study a run is of, and whether it chose a setting ("tuning")."""
RUNS = ("run_id", "run")
"""Columns that tell runs apart, where no --run says so."""


@dataclass(frozen=True)
class Request:
    """A comparison of the arms in one column of a table, paired by others.

    table       a file (.csv .tsv .json .jsonl), `mlflow:EXPERIMENT`, or a tracking URI with `#EXPERIMENT`
    pair        columns that two arms share, such as a seed; `replicate` are those of them, outermost, whose values are
                the independent replicates (a teacher's seed): pairs within one are averaged
    by          columns that split the family, such as the rank
    run         column that tells runs of one arm and pair apart, where a curve has several
    where       rows are taken that have these (column, value)
    step        column of the training step, where a run has several rows; `target`: compare the step of the first hit
    margin      the smallest difference that matters
    looks       declared numbers of replicates, the last the largest; none is one look at all there is
    """

    table: str
    arm: str
    baseline: str
    pair: tuple[str, ...]
    metric: str
    higher_is_better: bool = False
    by: tuple[str, ...] = ()
    replicate: tuple[str, ...] = ()
    run: str | None = None
    where: tuple[tuple[str, str], ...] = ()
    step: str | None = None
    target: float | None = None
    margin: float | None = None
    looks: tuple[int, ...] = ()
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Raise UserError for values that mean nothing."""
        if self.target is not None and self.step is None:
            raise UserError(f"--target {self.target:g}: name the column of the training step with --step COLUMN")
        if self.target is not None and not math.isfinite(self.target):
            raise UserError(f"--target {self.target:g}: give a number that a curve can reach")
        if self.margin is not None and not (math.isfinite(self.margin) and self.margin > 0):
            raise UserError(f"--margin {self.margin:g}: give the smallest difference that matters, above 0")
        if not 0 < self.alpha < 1:
            raise UserError(f"--alpha {self.alpha:g}: give a share between 0 and 1, such as 0.05")
        if any(a >= b for a, b in zip((0, *self.looks), self.looks, strict=False)):
            raise UserError(f"--looks {','.join(map(str, self.looks))}: give increasing numbers, such as 6,9,12")
        self._check_roles()

    def _check_roles(self) -> None:
        strangers = [name for name in self.replicate if name not in self.pair]
        if strangers:
            raise UserError(f"--replicate {strangers[0]}: it is not among --pair {','.join(self.pair)}; add it there")
        roles = {"--arm": (self.arm,), "--pair": self.pair, "--by": self.by, "--metric": (self.metric,)}
        roles |= {"--step": (self.step,) if self.step else ()}
        taken: dict[str, str] = {}
        for option, names in roles.items():
            for name in names:
                if name in taken:
                    raise UserError(f"{option} {name}: the column is already given as {taken[name]}")
                taken[name] = option

    @cached_property
    def columns(self) -> frozenset[str]:
        """The columns that this request may look at."""
        named = {self.arm, self.metric, *self.pair, *self.by, *(name for name, _ in self.where)}
        named |= {name for name in (self.step, self.run) if name}
        return frozenset(named | {"status", STAGE, PURPOSE, *STEPS, *RUNS})

    @property
    def key_names(self) -> tuple[str, ...]:
        """The columns of a pair's key, the independent replicates first."""
        return (*self.replicate, *(name for name in self.pair if name not in self.replicate))

    @property
    def outcome(self) -> str:
        """What is compared, in words: the metric, or the steps to its target."""
        return self.metric if self.target is None else f"steps to {self.metric} {self.target:g}"

    @property
    def is_higher_better(self) -> bool:
        """The direction of what is compared: fewer steps are better whatever the metric."""
        return self.higher_is_better and self.target is None
