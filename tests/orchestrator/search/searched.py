"""A search over the fake trainables, and a store in which some of its points have run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.fingerprints import FilePlanner
from orchestrator.plan import Plan
from orchestrator.planning import Planning
from orchestrator.search.asking import Asking
from orchestrator.search.ledger import Ledger
from orchestrator.space import Choice, Float, Int, Objective, Prune, Search
from orchestrator.store import Store
from orchestrator.study import Study
from tests.orchestrator.synthetic import fill, rank_study

SPACE = {
    "student.init": Choice("random", "svd"),
    "student.rank": Int(2, 16, log=True),
    "student.learning_rate": Float(1e-5, 1e-1, log=True),
}
OBJECTIVE = Objective("final_eval_loss")


def search_study(
    *,
    points: int = 6,
    seeds: Sequence[int] = (1,),
    space: dict[str, Choice | Int | Float] | None = None,
    sampler: str = "tpe",
    objectives: tuple[Objective, ...] = (OBJECTIVE,),
    prune: Prune | None = None,
    seed: int = 1,
) -> Study:
    study = rank_study()
    student = study.stages["student"].but()
    student = replace(student, config={})
    evaluate = study.stages["evaluate"].but(inputs={"subject": ("base_model", "teacher", "student")})
    search = Search(
        space or SPACE,
        points,
        objectives,
        sampler,  # type: ignore[arg-type]
        seed,
        startup=4,
        arm="student.init",
        prune=prune,
    )
    return replace(
        study,
        name="search",
        stages={**study.stages, "student": student, "evaluate": evaluate},
        axes={"student.seed": tuple(seeds)},
        comparison=None,
        search=search,
    )


class Searched:
    """One search on one store: plans, asks, fills."""

    def __init__(self, study: Study, root: Path) -> None:
        self.store = Store(root)
        self.ledger = Ledger(Planning(study, FilePlanner(self.store)), self.store)
        self.asking = Asking(self.ledger, self.store, self.plan)

    def plan(self) -> Plan:
        return self.ledger.planning(self.store.record, self.ledger.asked())

    def run(self, rounds: int = 100) -> Plan:
        """Ask and execute, until nothing is left to ask for or so many rounds are over."""
        for _ in range(rounds):
            plan = self.asking.ask()
            if not fill(plan, self.store):
                break
        return self.plan()
