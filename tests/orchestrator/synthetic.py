"""A study shaped like rank_study over the fake trainables, and a store filled with its records."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.attempt import Execution
from cluster.base import Job, Outcome
from orchestrator.fingerprints import FilePlanner
from orchestrator.plan import Plan, Run
from orchestrator.planning import expand
from orchestrator.store import Store
from orchestrator.study import Axis, By, Comparison, Computed, Stage, Study, repeats
from trainables.base import Scalar

FAKES = "tests.orchestrator.fakes"
READS = {"base_model": "base_model", "dataset": "dataset"}


@dataclass(frozen=True)
class Fates:
    """How single students end, by readable cell: {(rank, init, seed): "oom"}."""

    of: Mapping[tuple[Any, ...], str]

    def __call__(self, rank: int, init: str, seed: int) -> str:
        return self.of.get((rank, init, seed), "done")


def export_rank(rank: int) -> int:
    return max(64, 1 << (rank - 1).bit_length())


def rank_study(
    *,
    ranks: tuple[int, ...] = (4, 16, 64),
    inits: tuple[str, ...] = ("random", "svd"),
    seeds: int = 7,
    fates: Mapping[tuple[Any, ...], str] | None = None,
    teacher: Mapping[str, Scalar] | None = None,
    **student: Scalar,
) -> Study:
    subjects = ("base_model", "teacher", "svd_export", "student")
    axes = ("student.rank", "student.init", "student.seed")
    settings = {
        "learning_rate": By("student.init", random=1e-3, otherwise=3e-5),
        "fate": Computed(Fates(fates or {}), *axes),
        **student,
    }
    truncation = By("evaluate.subject", svd_export=Axis("student.rank"), otherwise=None)
    return Study(
        name="rank_study",
        description="Does a LoRA student learn better from the SVD of a teacher's change than from random?",
        stages={
            "base_model": Stage(f"{FAKES}.base_model"),
            "dataset": Stage(f"{FAKES}.dataset", inputs={"base_model": "base_model"}),
            "teacher": Stage(f"{FAKES}.teacher", teacher or {}, READS),
            "svd_export": Stage(
                f"{FAKES}.svd_export",
                {"rank": Computed(export_rank, "student.rank")},
                {"base_model": "base_model", "teacher": "teacher"},
            ),
            "student": Stage(f"{FAKES}.student", settings, {**READS, "svd_export": "svd_export"}),
            "evaluate": Stage(f"{FAKES}.evaluate", {"rank": truncation}, {**READS, "subject": subjects}),
        },
        axes={axes[0]: ranks, axes[1]: inits, axes[2]: repeats(seeds)},
        comparison=Comparison(target_margin=0.05),
        scale="fake",
        notes=("learning rates: invented",),
    )


def planned(study: Study, store: Store) -> Plan:
    return expand(study, FilePlanner(store))


def execute(run: Run, store: Store) -> Outcome:
    execution = Execution(Job(run, store.root))
    for _ in execution:
        pass
    assert execution.outcome is not None
    return execution.outcome


def fill(plan: Plan, store: Store, *, leave_out: Collection[str] = ()) -> dict[str, Outcome]:
    """Execute what the store lacks, but for the runs named in `leave_out`; skip what needs a run that is not done."""
    outcomes: dict[str, Outcome] = {}
    for run in plan.runs:
        needs = (store.record(source) for source in run.inputs.values())
        ready = all(record is not None and record.status == "done" for record in needs)
        if ready and run.name not in leave_out and not store.is_finished(run.id):
            outcomes[run.id] = execute(run, store)
    return outcomes


def filled(folder: Path, study: Study | None = None) -> tuple[Study, Plan, Store]:
    """Return a study, its plan, and a store in which all of it has run."""
    study, store = study or rank_study(), Store(folder)
    plan = planned(study, store)
    fill(plan, store)
    return study, plan, store
