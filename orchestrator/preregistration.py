"""The design of a study, locked before its data exist: `reports/STUDY/design.json` in the store.

What is locked is what a referee would ask to see dated: primary outcome, direction, margin, family, method, looks, n,
arms, ranks, alpha. The report lists whatever was done otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.ending import git_state
from orchestrator.design import Method
from orchestrator.durable import write_atomically
from orchestrator.errors import StoreError, UserError
from orchestrator.plan import Plan
from orchestrator.rehearsal import first
from orchestrator.replication import Design, design_of, is_for_verdict, replicate_axes
from orchestrator.store import Store
from orchestrator.study import Study, Unit
from trainables.base import Scalar

NAME = "design.json"


class Locked(BaseModel):
    """A locked design. `n` counts `unit` (replicates, or items); `groups` are the axes that split the family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    scale: str
    primary_outcome: str
    higher_is_better: bool
    arm: str
    baseline: Scalar
    arms: list[Scalar]
    groups: dict[str, list[Scalar]]
    replicates: dict[str, list[Scalar]]
    unit: Unit = Field(description="what a verdict's n counts: replicates, or the items they are tested on")
    n: int
    family: int
    method: Method
    looks: list[int]
    alpha: float
    margin: float | None
    target_margin: float
    selection: dict[str, list[Scalar]] = Field(
        default={}, description="the tuning seeds of every selected setting, how many of them start, and the metric"
    )
    settings: dict[str, list[Any]] = Field(description="of the compared runs, but for axes and what is selected")
    commit: str = Field(description="of the code, with + if the tree was changed; empty outside a checkout")
    locked: str = Field(description="UTC, ISO 8601")
    finished: int = Field(description="runs of the compared stages that had ended by then")
    runs: int = Field(description="runs of the compared stages that were planned")

    @property
    def when(self) -> str:
        """Say when it was locked, and how much was known by then."""
        date = self.locked.replace("T", " ")[:16] + " UTC"
        if self.finished:
            return f"locked on {date}, after {self.finished} of {self.runs} runs had ended"
        return f"locked on {date}, before any result"


def path_of(store: Store, study: str) -> Path:
    """Return where a study's locked design lies."""
    return store.reports / study / NAME


def read(store: Store, study: str) -> Locked | None:
    """Return the locked design of a study; None if there is none. Raises StoreError if it cannot be read."""
    path = path_of(store, study)
    try:
        return Locked.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no locked design"
        raise StoreError(f"{path} cannot be read: {reason}; restore it, or remove it to lock anew") from None


def lock(plan: Plan, store: Store) -> Locked:
    """Write the plan's design into the store; return it.

    Raises UserError if another design is locked already, or there is nothing to lock. The same design again is left
    as it was locked first.
    """
    plan = first(plan)
    design = design_of(plan)
    if design is None:
        raise UserError(f"--lock: {plan.study.name} compares no arms: there is no design to lock")
    new, old = _described(plan, store, design), read(store, plan.study.name)
    if old is not None:
        changes = list(differences(old, new))
        if changes:
            raise UserError(
                f"--lock: {path_of(store, plan.study.name)} is {old.when}, and differs in {'; '.join(changes)}. "
                "Go on with it (the report lists what differs), or give the changed study a name of its own"
            )
        return old
    path = path_of(store, plan.study.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, new.model_dump_json(indent=1) + "\n")
    return new


def compared(plan: Plan, store: Store) -> tuple[Locked, list[str]] | None:
    """Return the locked design and what differs from it in this plan; None if there is none, or nothing is compared."""
    locked = read(store, plan.study.name)
    if locked is None or not plan.outlook.of_stage(plan.study.compared_stage):
        return None
    now = describe(first(plan), store)
    return (locked, list(differences(locked, now))) if now is not None else None


def describe(plan: Plan, store: Store) -> Locked | None:
    """Return the design as it is now, as it would be locked; None where there is nothing to lock."""
    design = design_of(plan)
    return _described(plan, store, design) if design is not None else None


def _described(plan: Plan, store: Store, design: Design) -> Locked:
    from orchestrator.items import item_design  # reads the report's measures, and the report reads this module

    study, comparison = plan.study, design.comparison
    axes = replicate_axes(study)
    stages = (study.compared_stage, "evaluate")
    compared = [run for run in plan.outlook.runs if run.stage in stages and is_for_verdict(run)]
    ended = [run for run in compared if store.record(run.id) is not None]
    by_item = item_design(plan)
    return Locked(
        study=study.name,
        scale=study.scale,
        primary_outcome=comparison.metric,
        higher_is_better=comparison.higher_is_better,
        arm=comparison.arm,
        baseline=comparison.baseline,
        arms=list(study.axes[comparison.arm]),
        groups={axis: list(values) for axis, values in study.axes.items() if axis not in (comparison.arm, *axes)},
        replicates={axis: list(study.axes[axis]) for axis in axes},
        unit="item" if by_item else "replicate",
        n=by_item.items if by_item else design.planned,
        family=design.family,
        method=by_item.method if by_item else design.method,
        looks=list(comparison.looks),
        alpha=comparison.alpha,
        margin=comparison.margin,
        target_margin=comparison.target_margin,
        selection=_selection(study),
        settings=_settings(plan),
        commit=git_state(),
        locked=datetime.now(UTC).isoformat(timespec="seconds"),
        finished=len(ended),
        runs=len(compared),
    )


def _selection(study: Study) -> dict[str, list[Scalar]]:
    """Return how every selected setting is chosen: its seeds, how many of them start, by which metric."""
    found = {}
    for name, rule in study.selected.items():
        how = f"{rule.start or len(rule.seeds)} start, by {rule.metric}, {rule.widenings} widenings"
        found[f"tuning seeds of {name}"] = [*rule.seeds, how]
    return found


def _settings(plan: Plan) -> dict[str, list[Any]]:
    """Return the settings of the compared runs, each with the values it takes among them."""
    stage = plan.study.compared_stage
    runs = [run for run in plan.outlook.of_stage(stage) if is_for_verdict(run)]
    selected = {item.setting for item in plan.selections if item.stage == stage}
    own = {axis.partition(".")[2] for axis in plan.study.axes if axis.partition(".")[0] == stage}
    configs = [run.config.model_dump(mode="json") for run in runs]
    names = [name for name in (configs[0] if configs else ()) if name not in selected | own]
    found = {name: {str(config[name]): config[name] for config in configs} for name in names}
    return {name: [values[text] for text in sorted(values)] for name, values in found.items()}


ABOUT_LOCKING = ("commit", "locked", "finished", "runs")
"""What a lock says of itself, and not of the design."""


def differences(old: Locked, new: Locked) -> Iterator[str]:
    """Yield what differs between two designs, in words: "n: locked 7, now 12"."""
    before, after = (_flat(design) for design in (old, new))
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield f"{name}: locked {_shown(before.get(name))}, now {_shown(after.get(name))}"


def _flat(design: Locked) -> dict[str, Any]:
    values = design.model_dump(mode="json", exclude=set(ABOUT_LOCKING))
    nested = {name: values.pop(name) for name in ("groups", "replicates", "selection", "settings")}
    named = {axis: given for axes in nested.values() for axis, given in axes.items()}
    return {**{name.replace("_", " "): value for name, value in values.items()}, **named}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
