"""A store whose records say what a test wants of every item: `smoke` on questions of a file, planned for real."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.ending import make_record
from orchestrator.changes import Changes
from orchestrator.fingerprints import FilePlanner
from orchestrator.plan import Plan, Run
from orchestrator.planning import expand
from orchestrator.record import Provenance, Record
from orchestrator.store import Store
from orchestrator.studies import load
from trainables.answers import Answer, write_answers, write_items
from trainables.training.item_losses import ItemLoss


@dataclass(frozen=True)
class Asked:
    """One item as one subject meets it; `labels` has the axis values of the evaluation ("student.seed": 2)."""

    stage: str
    labels: Mapping[str, Any]
    number: int

    @property
    def arm(self) -> str:
        """The init of a student; empty for others."""
        return str(self.labels.get("student.init", "")) if self.stage == "student" else ""

    @property
    def seed(self) -> int:
        """The student's seed; 0 for others."""
        return int(self.labels.get("student.seed", 0))


@dataclass(frozen=True)
class Told:
    """What a test says of an item: its loss, and the answer where it is not the right one."""

    loss: float
    given: str | None = None
    tokens: int = 2


def questions(path: Path, count: int = 81) -> Path:
    """Write so many questions with an answer of a number."""
    path.write_text(json.dumps([{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(count)]))
    return path


def planned(folder: Path, *, settings: tuple[str, ...] = (), axes: tuple[str, ...] = (), count: int = 81) -> Plan:
    """Return the plan of `smoke` (tiny) on so many questions; rank 4 and one learning rate unless told otherwise."""
    source = questions(folder / "questions.json", count)
    axes = axes if any("student.rank" in axis for axis in axes) else ("student.rank=4", *axes)
    given = (f"dataset.source={source}", "student.learning_rate=0.003", *settings)
    return expand(load("smoke", Changes(given, axes)), FilePlanner(Store(folder)))


def folds(count: int) -> dict[str, tuple[str, ...]]:
    """Return the changes that test every record once in so many folds."""
    return {
        "settings": (f"dataset.folds={count}",),
        "axes": (f"dataset.fold={','.join(map(str, range(count)))}",),
    }


def fill(plan: Plan, store: Store, tell: Callable[[Asked], Told], *, leave_out: Collection[str] = ()) -> None:
    """Record every run of the plan but those named in `leave_out` (and what needs them)."""
    lost = plan.dependants([run.id for run in plan.runs if run.name in leave_out])
    for run in plan.runs:
        if run.name in leave_out or run.id in lost:
            continue
        attempt = store.begin(run.id)
        metrics = _evaluated(plan, run, attempt.output, tell) if run.trainable == "evaluate" else {}
        store.commit(attempt, _record(run, metrics))


def _evaluated(plan: Plan, run: Run, folder: Path, tell: Callable[[Asked], Told]) -> dict[str, Any]:
    config = plan[run.inputs["dataset"]].config
    source = json.loads(Path(config.source).read_text())
    numbers = [n for n in range(len(source)) if config.folds is None or n % config.folds == config.fold]
    stage = plan[run.inputs["subject"]].stage
    told = [tell(Asked(stage, run.labels, number)) for number in numbers]
    items = [{"id": f"item{number:03d}"} for number in numbers]
    answers = [
        Answer(
            item["id"], source[n]["question"], source[n]["answer"], said.given or source[n]["answer"], not said.given
        )
        for item, n, said in zip(items, numbers, told, strict=True)
    ]
    losses = [ItemLoss(said.loss * said.tokens, said.tokens, 0) for said in told]
    write_items(folder / "items.csv", items, losses, answers)
    write_answers(folder / "answers.jsonl", answers)
    tokens = sum(said.tokens for said in told)
    return {
        "test_loss": sum(item.nats for item in losses) / tokens,
        "test_accuracy": sum(answer.is_correct for answer in answers) / len(answers),
        "test_items": len(answers),
    }


def _record(run: Run, metrics: dict[str, Any]) -> Record:
    now = "2026-01-01T00:00:00"
    place = {"cpus": 1, "workers": 1}
    about = Provenance(started=now, finished=now, seconds=1.0, attempt=1, host="h", device="cpu", place=place)
    return make_record(run, "done", metrics, None, [], about)
