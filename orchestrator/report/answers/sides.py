"""From the answers that evaluations kept to questions with an answer of every subject.

A subject with several runs (seeds) has an answer of each; the first run's is shown, and how many of them are right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

from orchestrator.errors import UserError
from orchestrator.items import evaluations, fold_columns
from orchestrator.plan import Plan, Run
from orchestrator.replication import splitting_axes
from orchestrator.results import arm_stage, axis_columns
from orchestrator.store import Store
from trainables.base import Scalar

FILE = "answers.jsonl"
Only: TypeAlias = Literal["gained", "lost", "differing"]
ONLY = get_args(Only)
LABELS = {"base_model": "base model", "teacher": "teacher", "svd_export": "svd, untrained"}
Key: TypeAlias = tuple[Scalar, ...]
"""A question: its fold, where there are folds, and its id."""


@dataclass(frozen=True)
class Told:
    """What one run answered to one question."""

    run: str
    given: str
    is_right: bool


@dataclass(frozen=True)
class Subject:
    """Whoever answered: a label, whether it is an arm, and the answers of its runs, in the plan's order."""

    label: str
    is_arm: bool = False
    told: dict[Key, list[Told]] = field(default_factory=dict)

    def share(self, key: Key) -> float | None:
        """Return the share of this subject's runs that are right; None where none was asked."""
        told = self.told.get(key)
        return sum(item.is_right for item in told) / len(told) if told else None

    def right(self, questions: Iterable[Question]) -> tuple[float, int]:
        """Return how many of these questions are right, a share of them counted as such, and how many were asked."""
        shares = [share for question in questions if (share := self.share(question.key)) is not None]
        return sum(shares), len(shares)

    @property
    def runs(self) -> int:
        """The most runs that answered one question."""
        return max((len(told) for told in self.told.values()), default=0)


@dataclass(frozen=True)
class Question:
    """One test item."""

    key: Key
    text: str
    reference: str

    @property
    def id(self) -> str:
        """The item's id: a hash of its content."""
        return str(self.key[-1])


@dataclass(frozen=True)
class SideBySide:
    """All subjects of one group (a rank) on the same questions."""

    group: Mapping[str, Scalar]
    subjects: Sequence[Subject]
    questions: Sequence[Question]
    baseline: str

    @property
    def arms(self) -> list[Subject]:
        """The arms that are compared with the baseline."""
        return [subject for subject in self.subjects if subject.is_arm and subject.label != self.baseline]

    def gain(self, arm: Subject, question: Question) -> float:
        """Return the share of right answers that the arm has above the baseline (negative: below); 0 if unknown."""
        base = next((subject for subject in self.subjects if subject.is_arm and subject.label == self.baseline), None)
        shares = [subject.share(question.key) if subject else None for subject in (arm, base)]
        return 0.0 if None in shares else cast(float, shares[0]) - cast(float, shares[1])

    def change(self, subject: Subject, question: Question) -> str:
        """Return ↑ where an arm gains the question on the baseline, ↓ where it loses it, else nothing."""
        gain = self.gain(subject, question) if subject in self.arms else 0.0
        return "↑" if gain > 0 else "↓" if gain < 0 else ""

    def gained(self, arm: Subject) -> list[Question]:
        """Return the questions that the arm has right more often than the baseline."""
        return [question for question in self.questions if self.gain(arm, question) > 0]

    def lost(self, arm: Subject) -> list[Question]:
        """Return the questions that the arm has right less often than the baseline."""
        return [question for question in self.questions if self.gain(arm, question) < 0]

    def only(self, wish: Only | None) -> list[Question]:
        """Return the questions that some arm gains or loses, or that subjects differ in; all without a wish."""
        return [question for question in self.questions if wish is None or self._is(question, wish)]

    def _is(self, question: Question, wish: Only) -> bool:
        if wish == "differing":
            shares = {subject.share(question.key) for subject in self.subjects} - {None}
            return len(shares) > 1
        sign = 1 if wish == "gained" else -1
        return any(sign * self.gain(arm, question) > 0 for arm in self.arms)


def read(plan: Plan, store: Store) -> list[SideBySide]:
    """Return the answers, one for every group (rank) of the study; UserError where no evaluation has kept any."""
    found = [(run, _lines(run, store)) for run in evaluations(plan)]
    found = [(run, lines) for run, lines in found if lines]
    if not found:
        raise UserError(
            f"no answers of {plan.study.name} are there: nothing was evaluated yet, or its data has no right answers "
            f"(plain text); see what is done with: python -m orchestrator status {plan.study.name}"
        )
    questions = _questions(plan, store, found)
    groups = _groups(plan)
    return [_side_by_side(plan, group, found, questions) for group in groups]


def _lines(run: Run, store: Store) -> list[dict[str, Any]]:
    path = store.artefact(run.id) / FILE
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def _groups(plan: Plan) -> list[dict[str, Scalar]]:
    """Return the values of the axes that split the family, in the order of the study; one empty group without any."""
    names = _group_columns(plan)
    students = plan.of_stage(arm_stage(plan.study))
    groups = [{column: run.labels.get(axis) for axis, column in names.items()} for run in students]
    return list({tuple(group.items()): group for group in groups if None not in group.values()}.values()) or [{}]


def _group_columns(plan: Plan) -> dict[str, str]:
    columns = axis_columns(plan.study)
    return {axis: columns[axis] for axis in splitting_axes(plan.study)}


def _key(plan: Plan, run: Run, line: Mapping[str, Any]) -> Key:
    columns = axis_columns(plan.study)
    folds = [axis for axis, column in columns.items() if column in fold_columns(plan.study)]
    return (*(run.labels.get(axis) for axis in folds), str(line["id"]))


def _questions(plan: Plan, store: Store, found: Sequence[tuple[Run, list[dict[str, Any]]]]) -> list[Question]:
    known = {_key(plan, run, line): line for run, lines in found for line in lines}
    prompts = {key: str(line["prompt"]) for key, line in known.items()}
    texts = _without_template(prompts) if _has_template(plan) else prompts
    return [Question(key, texts[key].strip(), str(line["reference"])) for key, line in known.items()]


def _has_template(plan: Plan) -> bool:
    return any(getattr(run.config, "chat_template", False) for run in plan.of_stage("dataset"))


def _without_template(prompts: Mapping[Key, str]) -> dict[Key, str]:
    """Return the prompts without what a chat template puts around all of them, up to its last sign before a question.

    What questions begin with in common ("What is ") stays: the common text is cut behind its last line or special sign.
    """
    if len(prompts) < 2:
        return dict(prompts)
    first, last = min(prompts.values()), max(prompts.values())
    begin = _common(first, last)
    begin = begin[: max((begin.rfind(sign) + 1 for sign in "\n>]"), default=0)]
    turned = sorted(prompt[::-1] for prompt in prompts.values())
    end = _common(turned[0], turned[-1])[::-1]
    starts = [at for sign in "\n<[" if (at := end.find(sign)) >= 0]
    end = end[min(starts) :] if starts else ""
    return {key: prompt.removeprefix(begin).removesuffix(end) for key, prompt in prompts.items()}


def _common(one: str, other: str) -> str:
    length = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _side_by_side(
    plan: Plan,
    group: Mapping[str, Scalar],
    found: Sequence[tuple[Run, list[dict[str, Any]]]],
    questions: list[Question],
) -> SideBySide:
    columns = _group_columns(plan)
    subjects: dict[str, Subject] = {}
    for run, lines in found:
        if any(run.labels.get(axis, group[column]) != group[column] for axis, column in columns.items()):
            continue
        label, is_arm = _label(plan, run)
        subject = subjects.setdefault(label, Subject(label, is_arm))
        for line in lines:
            told = Told(run.inputs["subject"], str(line["given"]), bool(line["correct"]))
            subject.told.setdefault(_key(plan, run, line), []).append(told)
    comparison = plan.study.comparison
    baseline = str(comparison.baseline) if comparison else ""
    return SideBySide(group, list(_ordered(subjects.values(), baseline)), questions, baseline)


def _label(plan: Plan, run: Run) -> tuple[str, bool]:
    """Return what the subject of an evaluation is called, and whether it is an arm."""
    stage = plan[run.inputs["subject"]].stage
    if stage != arm_stage(plan.study):
        return LABELS.get(stage, stage.replace("_", " ")), False
    arm = run.labels.get(plan.study.comparison.arm) if plan.study.comparison else None
    return str(arm or stage), True


def _ordered(subjects: Iterable[Subject], baseline: str) -> Iterator[Subject]:
    """Yield references first, then the baseline, then the other arms."""
    order = [*LABELS.values()]
    known = list(subjects)
    yield from sorted((s for s in known if not s.is_arm), key=lambda s: (*order, s.label).index(s.label))
    yield from sorted((s for s in known if s.is_arm), key=lambda s: s.label != baseline)
