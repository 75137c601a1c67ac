"""What would favour one arm: shared learning rates, a fixed alpha, unpaired runs, early stopping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from orchestrator.advice.base import Advice
from orchestrator.items import item_design
from orchestrator.plan import Plan, Run
from orchestrator.replication import Design, is_for_verdict
from orchestrator.study import By, Comparison, Selected, Study
from trainables.base import Scalar

Arms: TypeAlias = Mapping[str, Sequence[Run]]
"""The runs of each arm."""
RATE = "learning_rate"
ENOUGH = 3
"""Learning rates that an arm is tried at, at least, before one is chosen."""


def learning_rates(plan: Plan, design: Design) -> Iterator[Advice]:
    """Yield whether every arm has a rate of its own, chosen among enough on seeds that the verdict does not use."""
    comparison = design.comparison
    verdict, tuning = (_by_arm(plan, comparison, is_tuning=is_tuning) for is_tuning in (False, True))
    rates = {arm: _rates(verdict[arm]) for arm in _trained(verdict)}
    if not any(rates.values()):
        return
    shown = ", ".join(f"{arm} {' / '.join(f'{rate:g}' for rate in values)}" for arm, values in rates.items())
    is_shared = len({tuple(values) for values in rates.values()}) == 1 and len(rates) > 1
    if tuning:
        yield from _tuned(plan, tuning, verdict)
        yield from _selections(plan, design)
    elif is_shared:
        text = f"{shown} for all arms favours the arm that it suits; give each its own, from {ENOUGH} values or more"
        yield Advice("learning rate", False, text)
    else:
        yield Advice("learning rate", True, f"{shown}; tuned elsewhere, if the study's notes say so")


def _tuned(plan: Plan, tuning: Arms, verdict: Arms) -> Iterator[Advice]:
    """Say among how many values each arm chooses (the fewest of its choices); an arm that trains nothing needs none."""
    arm = (plan.study.comparison or Comparison()).arm
    chosen = [item for item in plan.selections if (item.stage, item.setting) == (plan.study.compared_stage, RATE)]
    tried = {
        name: [len(item.tried) for item in chosen if item.labels.get(arm) in (None, name)] for name in _trained(verdict)
    }
    counts = {name: min(found, default=len(_rates(tuning.get(name, ())))) for name, found in tried.items()}
    few = [name for name, count in counts.items() if count < ENOUGH]
    if few:
        numbers = ", ".join(f"{name} {count}" for name, count in counts.items())
        text = f"values tried: {numbers}; give {', '.join(few)} {ENOUGH} or more, or the choice is hardly one"
        yield Advice("learning rate", False, text)
    else:
        yield Advice("learning rate", True, f"every arm chooses among {_least(counts.values())}, by validation loss")
    seeds = [{_setting(run, "seed") for runs in arms.values() for run in runs} for arms in (tuning, verdict)]
    both = sorted(seeds[0] & seeds[1], key=str)
    if both:
        text = f"seeds {', '.join(map(str, both))} choose the rate and give the verdict: tune on others"
        yield Advice("tuning seeds", False, text)


def _trained(arms: Arms) -> list[str]:
    """Return the arms whose runs train at all."""
    return [arm for arm, runs in arms.items() if any(_setting(run, "steps") != 0 for run in runs)]


def _least(counts: Iterable[int]) -> str:
    """Return "3 values", "3 values or more"."""
    least, most = min(counts := list(counts), default=0), max(counts, default=0)
    return f"{least} values{' or more' if most > least else ''}"


def _selections(plan: Plan, design: Design) -> Iterator[Advice]:
    """Say what is selected how; a best that still lies on the edge of its grid is named."""
    if not plan.selections:
        return
    made = sum(item.value is not None for item in plan.selections)
    told = "; ".join(f"{name} by {_how(rule)}" for name, rule in plan.study.selected.items())
    yield Advice("selection", True, f"{told}: {made} of {len(plan.selections)} made")
    yield from _few_seeds(plan, design)
    for item in plan.selections:
        if item.state == "on the edge":
            yield Advice("selection", False, f"{item}: it could not grow further")


def _how(rule: Selected) -> str:
    """Return "validation loss on seeds 101 and 102, near ties on up to 108, which no verdict uses"."""
    start = rule.seeds[: rule.start]
    more = f", near ties on up to {rule.seeds[-1]}" if len(start) < len(rule.seeds) else ""
    return f"validation loss on {_numbered(start)}{more}, which no verdict uses"


def _numbered(seeds: Sequence[Scalar]) -> str:
    numbers = ", ".join(map(str, seeds))
    return f"seed{'s' if len(seeds) > 1 else ''} {numbers}"


def _few_seeds(plan: Plan, design: Design) -> Iterator[Advice]:
    """Note where a choice rests on fewer seeds than its verdict: it is then noisier than what it is judged by.

    Simulated (docs/error_rates.md): where rates matter two tuning seeds give wrong verdicts on the arms at their best
    in 25 % of studies, eight for seven replicates in 5 %, and a race on up to eight in 7 %.
    """
    few = {name: len(rule.seeds) for name, rule in plan.study.selected.items() if len(rule.seeds) < design.planned}
    if few:
        told = ", ".join(f"{name} {count}" for name, count in few.items())
        text = (
            f"{told} for {design.planned} replicates: noise of the choice can give equal arms unequal rates; choose as "
            f"surely as you judge: --tuning-seeds {design.planned}"
        )
        yield Advice("tuning seeds", False, text)


def alpha_policy(plan: Plan) -> Iterator[Advice]:
    """Yield whether the scaling of the adapters is alike at all ranks and in all arms, or varied by an axis."""
    students = [run for run in plan.outlook.of_stage("student") if is_for_verdict(run)]
    if not students or _setting(students[0], "rank") is None:
        return
    if (axis := _axis_of_alpha(plan.study)) is not None:
        yield Advice("alpha", True, f"varied by the axis {axis}, alike in every arm")
        return
    policies = {_policy(run) for run in students}
    ranks = {_setting(run, "rank") for run in students}
    told = ", ".join(sorted(policies))
    if len(policies) == 1 and (policies <= {"alpha = rank", "rsLoRA"} or len(ranks) == 1):
        yield Advice("alpha", True, f"{told} in every arm")
    elif all(policy.startswith("alpha = ") for policy in policies - {"alpha = rank"}) and len(ranks) > 1:
        text = f"{told}: a fixed lora_alpha lowers the step at high rank; leave it out for alpha = rank, or --set "
        yield Advice("alpha", False, f"{text}student.use_rslora=true")
    else:
        text = f"{told}: not alike in all runs, so that arms differ in more than they are called by"
        yield Advice("alpha", False, text)


def _axis_of_alpha(study: Study) -> str | None:
    """Return the axis, other than the arms', that the study varies alpha by."""
    arm = (study.comparison or Comparison()).arm
    config = study.stages["student"].config if "student" in study.stages else {}
    values = [config.get(name) for name in ("lora_alpha", "use_rslora")]
    followed = [value.axis for value in values if isinstance(value, By)]
    named = [axis for axis in study.axes if axis in (*followed, "student.lora_alpha", "student.use_rslora")]
    return next((axis for axis in named if axis != arm), None)


def _policy(run: Run) -> str:
    rank, alpha = _setting(run, "rank"), _setting(run, "lora_alpha")
    if _setting(run, "use_rslora"):
        return "rsLoRA" if alpha in (None, rank) else f"rsLoRA with alpha = {alpha:g}"
    return "alpha = rank" if alpha in (None, rank) else f"alpha = {alpha:g}"


SHARED = ("batch_size", "steps", "epochs", "schedule", "warmup_steps", "precision", "eval_every")


def pairing(plan: Plan, design: Design) -> Iterator[Advice]:
    """Yield whether the arms share split, teacher and data order, and differ in nothing but what they are called by."""
    arms = _by_arm(plan, design.comparison, is_tuning=False)
    unlike = [name for name in SHARED if len({_values(runs, name) for runs in arms.values()}) > 1]
    if unlike:
        values = "; ".join(f"{name} {_told(arms, name)}" for name in unlike)
        is_said = "." not in design.comparison.arm
        what = "as the study says of its arms" if is_said else "give them one value, or name it in the question"
        yield Advice("pairing", is_said, f"the arms differ in {values}: {what}")
        return
    several = len(plan.of_stage("teacher")) > 1
    if several and "teacher" not in design.counted and "teacher.seed" in plan.study.axes:
        yield Advice(
            "pairing",
            False,
            f"{_without_teacher(plan, arms)} read no teacher, so that n counts {' and '.join(design.counted)} and the "
            'teachers are averaged; for teachers as replicates give each seed its own: Stage("teacher", '
            '{"seed": Axis("student.seed")})',
        )
        return
    shares = "split, data order and seed" if len(plan.of_stage("dataset")) <= 1 else "each split, data order and seed"
    note = "an item's difference is averaged over its pairs of runs" if item_design(plan) else design.note
    yield Advice("pairing", True, f"the arms share {shares}; {note}")


def _without_teacher(plan: Plan, arms: Arms) -> str:
    teachers = {run.id for run in plan.of_stage("teacher")}
    fed = plan.outlook.dependants(teachers)
    return " and ".join(arm for arm, runs in arms.items() if not any(run.id in fed for run in runs))


def early_stopping(plan: Plan) -> Iterator[Advice]:
    """Yield what stopping runs early by their loss would bias: it favours the arm that starts lower."""
    metric = plan.study.comparison.metric if plan.study.comparison else ""
    if metric.startswith("best_"):
        text = f"{metric} is early stopping by another name: it favours the arm that starts lower; judge the last step"
        yield Advice("early stopping", False, text)
        return
    steps = {_setting(run, "steps") for run in plan.outlook.of_stage("student") if is_for_verdict(run)} - {None}
    told = f"after {' / '.join(map(str, sorted(steps)))} steps" if steps else "at their last step"
    yield Advice("early stopping", True, f"none: all runs are judged {told}")


def _by_arm(plan: Plan, comparison: Comparison, *, is_tuning: bool) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in plan.outlook.of_stage(plan.study.compared_stage):
        if is_for_verdict(run) != is_tuning:
            found.setdefault(str(run.labels.get(comparison.arm)), []).append(run)
    return found


def _rates(runs: Sequence[Run]) -> list[float]:
    return sorted({rate for run in runs if (rate := _setting(run, RATE)) is not None})


def _values(runs: Sequence[Run], name: str) -> frozenset[Any]:
    return frozenset(_setting(run, name) for run in runs)


def _told(arms: Arms, name: str) -> str:
    """Return each arm's values of a setting; those of most arms are told once: "svd 20, others 40"."""
    values = {arm: "/".join(sorted(map(str, _values(runs, name)))) for arm, runs in arms.items()}
    usual, count = Counter(values.values()).most_common(1)[0]
    told = [f"{arm} {value}" for arm, value in values.items() if count < 3 or value != usual]
    return ", ".join([*told, f"the others {usual}"] if count >= 3 else told)


def _setting(run: Run, name: str) -> Any:
    return getattr(run.config, name, None)
