"""What a study says: its stages, the axes that vary and the comparison it is for. Data; building it runs nothing.

A setting of a stage is a plain value, or a value that depends on an axis or on another setting:

    Stage("student", config={"rank": Axis("student.rank"), "learning_rate": By("student.init", random=1e-3, svd=1e-4)})

An axis is named after the setting it varies (`student.rank`); that setting needs no `Axis(...)` of its own, and may be
made from the axis' value instead: `{"seed": Computed(shifted, "student.seed", "student.init")}`. An axis without a dot
(`arm`) varies no setting itself: `By("arm", ...)`, in settings and inputs, says what each value means.

A setting may also be chosen by tuning runs, `Selected(around(1e-3))`, and is planned as a plain number then.

A study compares the values of an axis (`comparison`) or searches a space (`search`, see orchestrator.space).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from orchestrator.space import Search
from trainables.base import InputError, Place, Scalar
from trainables.base_models.shape import Shape

Point = Mapping[str, Any]
"""One value for every axis, by the axis' name."""


@dataclass(frozen=True)
class Axis:
    """The value that an axis has at this point, for a setting of another stage than the axis' own."""

    name: str


Unit: TypeAlias = Literal["replicate", "item"]
"""What a comparison's n counts."""


class By:
    """A value looked up by the value of an axis: `By("student.init", random=1e-3, svd=1e-4)`.

    Keys that are not identifiers go in a mapping: `By("student.rank", {4: 8, 16: 32})`. `otherwise` serves the
    values that are not named; without it they are refused. Values may be `Axis`, `By` or `Computed` again.
    """

    def __init__(self, axis: str, table: Mapping[Any, Any] | None = None, /, *, otherwise: Any = ..., **named: Any):
        """Make the table; see the class."""
        self.axis, self.table, self.otherwise = axis, {**(table or {}), **named}, otherwise


@dataclass(frozen=True)
class Computed:
    """A value computed from axes by a pure, module-level function: `Computed(export_rank, "student.rank")`."""

    function: Callable[..., Any]
    axes: tuple[str, ...]

    def __init__(self, function: Callable[..., Any], *axes: str) -> None:
        """Name the function and the axes whose values are its arguments."""
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "axes", axes)


@dataclass(frozen=True)
class Selected:
    """A setting chosen by tuning runs: the value of a grid with the smallest loss, planned as a plain number.

    A tuning run is the stage at the same point, but for the replicate axis (`Comparison.replicate`), which has a
    tuning seed, and this setting, which has a value of the grid. It is not evaluated: the choice never sees test data.

    grid       positive numbers in equal ratios, at least three; or `By`/`Computed`, which give them for each point.
               Every point of a study has as many values as the others, as far apart
    seeds      values of the replicate axis for the tuning runs, none of them among the axis' own
    start      on how many of the seeds every value is tried. Those that are then within noise of the best race on, on
               twice as many seeds each time (orchestrator.selection.choose), until one is ahead or the seeds are
               used up: the same rule for every arm, declared before any run. None: all values on all seeds
    metric     what is minimised, as the mean over the seeds: a metric of the tuning runs' records. A run that
               diverged counts as infinite; of equal values the smallest is taken
    per        axes that have a choice each; None: all but replicates. What is not among them is pooled, but for
               other replicate axes (teachers, splits), which keep their first value
    widenings  a grid whose best value lies on its edge grows there by one value, as often as this
    """

    grid: Any
    seeds: tuple[Scalar, ...] = (101,)
    metric: str = "final_eval_loss"
    per: tuple[str, ...] | None = None
    widenings: int = 3
    start: int | None = None

    def with_seeds(self, count: int, avoid: Collection[object] = ()) -> Selected:
        """Return the same with `count` seeds: the first of these, and then numbers that follow, but for `avoid`."""
        last = max((seed for seed in self.seeds if isinstance(seed, int)), default=100)
        fresh = (seed for seed in itertools.count(last + 1) if seed not in avoid)
        seeds = (*self.seeds[:count], *itertools.islice(fresh, max(0, count - len(self.seeds))))
        return replace(self, seeds=seeds, start=self.start and min(self.start, count))


def around(centre: float, count: int = 3, ratio: float = 10**0.5) -> tuple[float, ...]:
    """Return `count` (odd) numbers in equal ratios around `centre`, to two digits: 3.2e-4, 1e-3, 3.2e-3."""
    return tuple(two_digits(centre * ratio**step) for step in range(-(count // 2), count // 2 + 1))


def two_digits(value: float) -> float:
    """Return the number as one would write it: a value typed by hand is then the same number."""
    return float(f"{value:.1e}")


@dataclass(frozen=True)
class Collected:
    """All runs of a stage along one axis, as the inputs ROLE_1, ROLE_2, ... of one run, in the order of the values.

        Stage("lora_mean", inputs={"base_model": "base_model", "member": Collected("member", over="member.seed")})

    The run that collects them is one run, and neither it nor what reads from it follows that axis.
    """

    stage: str
    over: str


@dataclass(frozen=True)
class Stage:
    """A trainable with its config and what it needs.

    `inputs` maps each role of the trainable to the stage that fills it, to a `By` of stages, or to all runs of a stage
    along an axis (`Collected`). A tuple of stages
    makes one run for each of them, and of whatever reads from those; the alternative taken is then an axis of its own,
    named `STAGE.ROLE` (`evaluate.subject`).
    """

    trainable: str
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str | tuple[str, ...] | By | Collected] = field(default_factory=dict)
    place: Place = field(default_factory=Place)
    follows: str = ""
    """A stage whose changes from the command line (--set, --axis) this one takes on, too."""

    def but(self, config: Mapping[str, Any] | None = None, inputs: Mapping[str, Any] | None = None) -> Stage:
        """Return the stage with some settings and inputs replaced or added."""
        return replace(self, config={**self.config, **(config or {})}, inputs={**self.inputs, **(inputs or {})})


@dataclass(frozen=True)
class Comparison:
    """The question as statistics sees it: arms, the baseline among them, and the one primary outcome.

    arm             axis whose values are compared (an init, most often)
    baseline        the value the others are compared with
    by              axis that splits the family (rank), or None
    replicate       axis whose values are the paired replicates (seed)
    metric          primary outcome, a column of results.csv
    higher_is_better  direction of the primary outcome
    target_margin   steps to target: the target is the teacher's held-out loss plus this margin
    alpha           the chance that any comparison of the family errs, over all looks together
    margin          the smallest difference in the primary outcome that matters, declared beforehand: verdicts may then
                    be "equivalent", and the report names the smallest rank not inferior to the teacher by it
    looks           numbers of replicates after which one looks, declared beforehand, the last the largest; they share
                    alpha (orchestrator.design.share_alpha). None: one look, when all planned replicates are there
    unit            what n counts: replicates, or the items that were tested. None: items where the outcome is
                    accuracy or the records are tested in folds, else replicates (orchestrator.items.unit_of)
    """

    arm: str = "student.init"
    baseline: str = "random"
    by: str | None = "student.rank"
    replicate: str = "student.seed"
    metric: str = "test_loss"
    higher_is_better: bool = False
    target_margin: float = 0.0
    alpha: float = 0.05
    margin: float | None = None
    looks: tuple[int, ...] = ()
    unit: Unit | None = None

    def __post_init__(self) -> None:
        if self.margin is not None and not (math.isfinite(self.margin) and self.margin > 0):
            raise InputError(f"a margin of {self.margin:g}: give the smallest difference that matters, above 0")
        if any(n < 1 for n in self.looks) or any(a >= b for a, b in itertools.pairwise(self.looks)):
            raise InputError(f"looks after {', '.join(map(str, self.looks))}: give increasing numbers from 1 on")


@dataclass(frozen=True)
class Rehearsal:
    """What is done to a study at a scale that rehearses it (orchestrator.rehearsal).

    repetitions  how often the whole design is run, each time with other seeds
    longer       what is planted: the share of steps that an arm trains longer than the baseline, by comparison in
                 turn; empty: nothing is, the arms differ in their seeds alone
    """

    repetitions: int
    longer: tuple[float, ...] = ()


@dataclass(frozen=True)
class Origin:
    """How a study was loaded: its name or file, and what the command line changed in it, as written."""

    study: str
    settings: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    teacher: str | None = None


@dataclass(frozen=True)
class Study:
    """A question: stages in any order, axes, and the comparison; `scale` is the size it was built at.

    `shape` is that of the base model, where it is known before the model is fetched; `rehearsal` is set where the
    study is run on a model with a known answer. With a `search` the axes are only those that every point has: seeds.
    """

    name: str
    description: str
    stages: Mapping[str, Stage]
    axes: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    comparison: Comparison | None = None
    scale: str = ""
    shape: Shape | None = None
    notes: tuple[str, ...] = ()
    rehearsal: Rehearsal | None = None
    search: Search | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if self.search is None:
            return
        if self.comparison is not None:
            raise InputError(f"{self.name} compares and searches; a study does one of the two")
        both = [axis for axis in self.search.space if axis in self.axes]
        if both:
            raise InputError(f"{both[0]} is an axis and searched; a study does one of the two")

    @property
    def varied(self) -> tuple[str, ...]:
        """All that varies: what is searched, then the axes."""
        return (*(self.search.space if self.search else ()), *self.axes)

    @property
    def replicate(self) -> str:
        """The axis whose values are the paired replicates."""
        return (self.comparison or Comparison()).replicate

    @property
    def compared_stage(self) -> str:
        """The stage whose runs are compared: the arm's, or, where the arm is an axis of its own, the replicates'."""
        comparison = self.comparison or Comparison()
        stage, dot, _ = comparison.arm.partition(".")
        return stage if dot else comparison.replicate.partition(".")[0]

    def is_replicate(self, axis: str) -> bool:
        """Say whether an axis repeats the comparison (seeds, teachers, splits) instead of varying it."""
        return axis == self.replicate or setting_of(axis) in REPLICATE_SETTINGS

    @property
    def selected(self) -> dict[str, Selected]:
        """The settings that tuning runs choose (student.learning_rate), each with the first of its rules."""
        settings = [
            (f"{name}.{key}", value) for name, stage in self.stages.items() for key, value in stage.config.items()
        ]
        return {name: rule for name, value in settings if name not in self.axes for rule in [*_rules(value)][:1]}

    @property
    def at_selected(self) -> str:
        """What verdicts add where settings are selected: "at the selected learning rates"; empty where none is."""
        names = dict.fromkeys(f"{setting_of(name).replace('_', ' ')}s" for name in self.selected)
        return f"at the selected {' and '.join(names)}" if names else ""

    @property
    def collected(self) -> frozenset[str]:
        """The axes along which runs are collected: the runs that read the collection do not follow them."""
        inputs = (value for stage in self.stages.values() for value in stage.inputs.values())
        return frozenset(one.over for value in inputs for one in _alternatives(value) if isinstance(one, Collected))

    def with_setting(self, stage: str, name: str, value: Any) -> Study:
        """Return the study with one setting of one stage replaced by a plain value."""
        return self.with_stage(stage, self.stages[stage].but({name: value}))

    def with_stage(self, name: str, stage: Stage) -> Study:
        """Return the study with one stage replaced."""
        return replace(self, stages={**self.stages, name: stage})

    def with_axis(self, name: str, values: Sequence[Scalar]) -> Study:
        """Return the study with one axis replaced or added."""
        return replace(self, axes={**self.axes, name: tuple(values)})


def _rules(value: Any) -> Iterator[Selected]:
    """Yield how a setting is selected, in any of its alternatives."""
    if isinstance(value, Selected):
        yield value
    elif isinstance(value, By):
        yield from (rule for one in _alternatives(value) for rule in _rules(one))


def _alternatives(value: Any) -> tuple[Any, ...]:
    """Return what an input may be: the values of a `By`, or itself."""
    return (*value.table.values(), value.otherwise) if isinstance(value, By) else (value,)


REPLICATE_SETTINGS = ("seed", "split_seed", "fold")
"""Axes of settings with these names are replicates, of any stage."""


def setting_of(axis: str) -> str:
    """Return the name of the setting that an axis varies; of a free axis, its own."""
    return axis.rpartition(".")[2]


def repeats(count: int) -> tuple[Scalar, ...]:
    """Return the values of a seed axis: 1 to `count`."""
    return tuple(range(1, count + 1))
