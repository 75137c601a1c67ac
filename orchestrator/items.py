"""What happened to every test item: one tidy table, and whether a study's comparison counts items.

An item is a record, known by a hash of its content; with folds each is tested in one of them. The outcomes are files
of the evaluations (`items.csv`), so that a comparison by item needs nothing but records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from orchestrator.design import Method, can_conclude
from orchestrator.plan import Plan, Run
from orchestrator.record import Record
from orchestrator.replication import is_for_verdict, replicate_axes, splitting_axes
from orchestrator.results import axis_columns
from orchestrator.store import Store
from orchestrator.study import Study, Unit
from trainables.data.config import DatasetConfig
from trainables.data.splitting import count_of
from trainables.dataset import count_records

if TYPE_CHECKING:
    import pandas as pd

FILE = "items.csv"
OUTCOMES = {"test_loss": "loss", "test_accuracy": "correct"}
"""The primary outcomes that are known item by item, and their columns."""
FOLD = "fold"


def unit_of(study: Study) -> Unit:
    """Return what the study's comparison counts: as it says, else items with folds and for accuracy."""
    comparison = study.comparison
    if comparison is None or comparison.metric not in OUTCOMES or not _keeps_items(study):
        return "replicate"
    if comparison.unit is not None:
        return comparison.unit
    return "item" if comparison.metric == "test_accuracy" or folds_of(study) else "replicate"


def _keeps_items(study: Study) -> bool:
    return any(stage.trainable == "evaluate" for stage in study.stages.values())


def folds_of(study: Study) -> int:
    """Return how many folds the study tests its records in; 0 without folds."""
    return max((len(values) for axis, values in study.axes.items() if _is_fold(study, axis)), default=0)


def _is_fold(study: Study, axis: str) -> bool:
    stage, _, setting = axis.partition(".")
    return setting == FOLD and study.stages[stage].trainable == "dataset"


def fold_columns(study: Study) -> list[str]:
    """Return the columns that say in which fold an item was tested; none without folds."""
    return [column for axis, column in axis_columns(study).items() if axis in study.axes and _is_fold(study, axis)]


def replicate_columns(study: Study) -> list[str]:
    """Return the columns whose values tell the runs of one arm apart: splits, folds and seeds."""
    columns = axis_columns(study)
    return [columns[axis] for axis in replicate_axes(study)]


def evaluations(plan: Plan) -> Iterator[Run]:
    """Yield the runs that test a subject on the test side, for a verdict (not for tuning)."""
    for run in plan.runs:
        if run.trainable == "evaluate" and getattr(run.config, "split", "") == "test" and is_for_verdict(run):
            yield run


def planned_items(plan: Plan, records: Mapping[str, Record]) -> int | None:
    """Return how many different items the study tests: from its datasets' records, else from their configs.

    None where neither says. Folds add up; splits of one data set test the same items again, and the largest counts.
    """
    runs = list(evaluations(plan))
    limits: list[int] = [limit for run in runs if (limit := getattr(run.config, "items", None))]
    counts = [_tested(plan[name], records.get(name)) for name in dict.fromkeys(run.inputs["dataset"] for run in runs)]
    known: list[int] = [min([count, *limits]) for count in counts if count is not None]
    if not known or len(known) < len(counts):
        return None
    return sum(known) if folds_of(plan.study) else max(known)


def _tested(dataset: Run, record: Record | None) -> int | None:
    found = record.metrics.get("test_items") if record is not None else None
    if isinstance(found, int):
        return found
    config = cast(DatasetConfig, dataset.config)
    count = count_records(config)
    if config.folds is None and isinstance(config.test, int):
        return config.test
    if count is None:
        return None
    return count_of(config.test, count) if config.folds is None else _of_fold(config.fold, config.folds, count)


def _of_fold(fold: int, folds: int, count: int) -> int:
    return count // folds + int(fold < count % folds)


@dataclass(frozen=True)
class ItemDesign:
    """What a design that counts items can reach: items, folds, runs of each arm, and the size of its family."""

    items: int
    folds: int
    runs: int
    family: int
    alpha: float

    @property
    def method(self) -> Method:
        """How the family's p is adjusted: items are shared by its comparisons, but their runs are not."""
        return "holm" if self.family > 1 else "none"

    @property
    def can_conclude(self) -> bool:
        """Whether the smallest of the family's adjusted p can reach alpha, and the luck of a seed can be told."""
        return can_conclude(self.items, self.family, self.alpha) and self.runs > 1

    def __str__(self) -> str:
        """Return the design in words."""
        folds = f" in {self.folds} folds, each tested once" if self.folds else ""
        runs = f"{self.runs} run{'' if self.runs == 1 else 's'} of each arm"
        comparisons = f"{self.family} comparison{'' if self.family == 1 else 's'}"
        return f"n counts items: {self.items}{folds}; {runs}, {comparisons}"


def item_design(plan: Plan) -> ItemDesign | None:
    """Return the design of a plan whose comparison counts items; None for others, and where the hub alone knows."""
    study, comparison = plan.study, plan.study.comparison
    items = planned_items(plan, {}) if unit_of(study) == "item" else None
    if comparison is None or items is None:
        return None
    columns, repeats = axis_columns(study), replicate_columns(study)
    sizes = {axis: len(values) for axis, values in study.axes.items()}
    runs = math.prod(size for axis, size in sizes.items() if columns[axis] in repeats)
    family = (sizes.get(comparison.arm, 1) - 1) * math.prod(sizes[axis] for axis in splitting_axes(study))
    return ItemDesign(items, folds_of(study), runs, family, comparison.alpha)


def item_table(plan: Plan, store: Store) -> pd.DataFrame:
    """Return one row per item and subject that was tested on it: the subject, its axes, item, loss, tokens, correct.

    `loss` is in nats per completion token of that item; `correct` is missing where nothing judges the answers.
    """
    import pandas as pd

    columns = axis_columns(plan.study)
    tables = [_of_run(run, store, columns) for run in evaluations(plan) if (store.artefact(run.id) / FILE).is_file()]
    if not tables:
        return pd.DataFrame(columns=["run_id", "stage", *columns.values(), "item", "loss", "tokens", "correct"])
    table = pd.concat(tables, ignore_index=True)
    stages = {run.id: run.stage for run in plan.runs}
    table.insert(1, "stage", table["run_id"].map(stages))
    axes = [name for name in columns.values() if name in table]
    table[axes] = table[axes].convert_dtypes(convert_string=False)  # a rank that base and teacher lack stays whole
    return table[["run_id", "stage", *axes, "item", "loss", "tokens", "correct"]]


def _of_run(run: Run, store: Store, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return the outcomes of one evaluation, under its subject's id; an axis that it does not follow is left out."""
    import pandas as pd

    table = pd.read_csv(store.artefact(run.id) / FILE, dtype={"item": "str", "correct": "Int64"})
    about: dict[str, Any] = {"run_id": run.inputs["subject"]}
    about |= {columns[axis]: value for axis, value in run.labels.items() if axis in columns}
    return table.assign(**{name: [value] * len(table) for name, value in about.items()})
