"""Tuning runs whose losses are told: a study with a selected rate, planned from records that are invented."""

from __future__ import annotations

import math
from collections.abc import Callable

from orchestrator.changes import Changes
from orchestrator.fingerprints import FilePlanner
from orchestrator.plan import Plan, Run
from orchestrator.planning import Planning
from orchestrator.record import Provenance, Record
from orchestrator.store import Store
from orchestrator.studies import load
from orchestrator.study import By, Selected, Study, around

RATES = By("student.init", random=around(1e-2), svd=around(1e-4))
Loss = Callable[[Run], float | str]


def study(selected: Selected | None = None, **changes: tuple[str, ...]) -> Study:
    """Two ranks, two inits, three seeds, at tiny scale."""
    axes = ("student.rank=2,4", "student.seed=1,2,3", *changes.pop("axes", ()))
    built = load("rank_study", Changes(scale="tiny", axes=axes, **changes))
    return built.with_setting("student", "learning_rate", selected or Selected(RATES, seeds=(101, 102)))


class Known:
    """Records of runs that ended with a loss, or with a status where the loss is one."""

    def __init__(self, tmp_path, of: Study) -> None:
        self.records: dict[str, Record] = {}
        self.planning = Planning(of, FilePlanner(Store(tmp_path / "runs"), tmp_path))

    def plan(self) -> Plan:
        return self.planning(self.records.get)

    def tell(self, run: Run, loss: float | str) -> None:
        status = loss if isinstance(loss, str) else "done"
        metrics = {} if isinstance(loss, str) else {"final_eval_loss": loss}
        when = Provenance(
            started="", finished="", seconds=1, attempt=1, host="here", device="cpu", place={}, source="", git=""
        )
        about = {"name": run.name, "stage": run.stage, "trainable": run.trainable, "version": run.version}
        config = {"config": run.config.identity(), "settings": run.config.model_dump(), "inputs": dict(run.inputs)}
        self.records[run.id] = Record(
            id=run.id, **about, **config, status=status, error="", metrics=metrics, provenance=when
        )

    def untold(self) -> list[Run]:
        return [run for run in self.plan().runs if run.purpose == "tuning" and run.id not in self.records]

    def settle(self, loss: Loss) -> Plan:
        """Tell the losses of all tuning runs until none is missing."""
        while runs := self.untold():
            for run in runs:
                self.tell(run, loss(run))
        return self.plan()


def valley(**best: float) -> Loss:
    """Return a loss that is smallest at one rate for each init."""
    return lambda run: 1 + (math.log10(run.config.learning_rate) - math.log10(best[run.config.init])) ** 2


def chosen(plan: Plan) -> dict[tuple[int, str], float]:
    found = {(run.config.rank, run.config.init): set() for run in plan.of_stage("student")}
    for run in plan.of_stage("student"):
        if run.purpose == "verdict":
            found[run.config.rank, run.config.init].add(run.config.learning_rate)
    return {key: min(rates) for key, rates in found.items() if len(rates) == 1}
