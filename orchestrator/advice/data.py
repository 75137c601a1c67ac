"""Is the data enough, and in which precision is it trained?"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.advice.base import Advice
from orchestrator.plan import Plan
from trainables.data.config import DatasetConfig
from trainables.dataset import recommend


def precision(plan: Plan) -> Iterator[Advice]:
    """Yield the precision of the arithmetic."""
    used = {getattr(run.config, "precision", None) for run in plan.runs} - {None}
    if used:
        yield Advice("precision", True, ", ".join(sorted(map(str, used))))


def data(plan: Plan) -> Iterator[Advice]:
    """Yield what is advised on few records, and folds that leave records untested."""
    configs = [run.config for run in plan.of_stage("dataset") if isinstance(run.config, DatasetConfig)]
    for text in dict.fromkeys(text for config in configs for text in recommend(config)):
        yield Advice("data", False, text)
    for count in sorted({folds for config in configs if (folds := config.folds)}):
        missing = set(range(count)) - {config.fold for config in configs}
        every = ",".join(map(str, range(count)))
        left = f"{len(missing)} of {count} folds are left out: --axis dataset.fold={every} tests every record once"
        yield Advice("folds", not missing, left if missing else f"{count}: every record is tested once")
