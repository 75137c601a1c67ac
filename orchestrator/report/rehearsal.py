"""How often a design errs and what it detects, counted over the repetitions of a rehearsal (orchestrator.rehearsal).

Every repetition is judged as the report judges a study, on its own runs, at each of its declared looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from orchestrator.freshness import PENDING
from orchestrator.plan import Plan
from orchestrator.record import Record
from orchestrator.rehearsal import longer_by, parts
from orchestrator.replication import counted_axes, design_of
from orchestrator.report import formatting
from orchestrator.report.choices import choices_of
from orchestrator.report.claims.words import listed
from orchestrator.report.comparison import scope
from orchestrator.report.differences import judge, number
from orchestrator.report.family import Family
from orchestrator.report.items import ItemView, by_item
from orchestrator.report.sections import Grid, Section
from orchestrator.report.summary import Difference, Number, Verdict
from orchestrator.results import tidy
from orchestrator.statistics import mean_interval, proportion
from orchestrator.store import Store
from orchestrator.study import Study
from trainables.base import Scalar

CLAIMS: tuple[Verdict, ...] = ("supported", "contradicted")


@dataclass(frozen=True)
class Case:
    """One comparison in one repetition.

    `verdict` is the first claim at a look, else that of the end; `is_alike` says whether arm and baseline were given
    the same settings by their tuning runs.
    """

    difference: Difference
    verdict: Verdict
    is_alike: bool

    @property
    def about(self) -> tuple[str, str]:
        """The arm, and the group in words."""
        return self.difference.arm, formatting.group(self.difference.group)


@dataclass(frozen=True)
class Counted:
    """One comparison over all repetitions: its cases, the true difference, and what was planted in it."""

    cases: Sequence[Case]
    longer: float

    @property
    def pairs(self) -> list[list[float]]:
        """The paired differences of every repetition that has any."""
        return [case.difference.pairs for case in self.cases if case.difference.pairs]

    @property
    def truth(self) -> Number:
        """The mean difference over all repetitions, with the t interval of their means."""
        return number(mean_interval([float(np.mean(pairs)) for pairs in self.pairs]))

    @property
    def d_z(self) -> float | None:
        """The true difference over the sd of a pair within its repetition; None where that is 0 or unknown."""
        variances = [np.var(pairs, ddof=1) for pairs in self.pairs if len(pairs) > 1]
        spread = float(np.sqrt(np.mean(variances))) if variances else 0.0
        return self.truth.mean / spread if spread > 0 else None

    def count(self, *verdicts: Verdict) -> int:
        """Return in how many repetitions the verdict was one of these."""
        return sum(case.verdict in verdicts for case in self.cases)


def section(plan: Plan, store: Store) -> Section | None:
    """Return what a rehearsal says of its design; None where the plan is none, or no repetition has ended."""
    if plan.study.rehearsal is None:
        return None
    found = list(repetitions(plan, store))
    if not found:
        return None
    counted = _by_comparison(plan.study, found)
    told = [_about(plan, len(found)), *_errors(plan.study, found, counted), *_detected(plan.study, found, counted)]
    return Section(name="rehearsal", title="Rehearsal", paragraphs=[*told, _limits(plan)], grids=[_grid(counted)])


def repetitions(plan: Plan, store: Store) -> Iterator[list[Case]]:
    """Yield the comparisons of every repetition all of whose runs have ended."""
    for part in parts(plan):
        records = store.records(run.id for run in part.runs)
        table = tidy(part, store)
        if not part.expected and not (table["status"] == PENDING).any():
            yield list(_cases(part, store, table, records))


def _cases(part: Plan, store: Store, table: pd.DataFrame, records: Mapping[str, Record]) -> Iterator[Case]:
    assert part.study.comparison is not None
    at_looks = []
    for size in [*part.study.comparison.looks[:-1], None]:
        family = Family(part.study, table if size is None else _until(part, table, size))
        judged, _ = by_item(ItemView.read(part, store, family, records), judge(family, scope(family)))
        at_looks.append(judged.differences)
    for several in zip(*at_looks, strict=True):
        claims = [item.verdict for item in several if item.verdict in CLAIMS]
        last = several[-1]
        yield Case(last, claims[0] if claims else last.verdict, _is_alike(part, last))


def _until(part: Plan, table: pd.DataFrame, size: int) -> pd.DataFrame:
    """Return the table as it was when the comparisons had their first `size` replicates."""
    design = design_of(part)
    assert design is not None
    axes = counted_axes(part.study, design)
    column = Family(part.study, table).columns[axes[0]]
    others = int(np.prod([len(part.study.axes[axis]) for axis in axes[1:]]))
    values = part.study.axes[axes[0]][: max(1, size // others)]
    return table[(table["stage"] != part.study.compared_stage) | table[column].isin(values)]


def _is_alike(part: Plan, difference: Difference) -> bool:
    """Say whether the tuning runs gave the arm and the baseline of a comparison the same settings."""
    ours, theirs = ([item.value for item in some] for some in choices_of(part, difference))
    return ours == theirs


def _by_comparison(study: Study, found: Sequence[Sequence[Case]]) -> list[Counted]:
    assert study.comparison is not None
    by = (study.comparison.by or "").rpartition(".")[2]
    by_name: dict[tuple[str, str], list[Case]] = {}
    for case in (case for cases in found for case in cases):
        by_name.setdefault(case.about, []).append(case)
    arms: dict[str, Scalar] = {str(value): value for value in study.axes[study.comparison.arm]}
    firsts = [(cases, cases[0].difference) for cases in by_name.values()]
    return [Counted(cases, longer_by(study, arms[one.arm], one.group.get(by))) for cases, one in firsts]


# -- words ------------------------------------------------------------------------------------------------


def _about(plan: Plan, count: int) -> str:
    design = design_of(parts(plan)[0])
    assert design is not None
    planned = len(parts(plan))
    ended = f"{count} repetitions" if count == planned else f"{count} of {planned} repetitions, the others not ended,"
    looks = f", looks after {listed([str(look.n) for look in design.looks])}" if design.looks else ""
    chosen = dict.fromkeys(f"{item.stage}.{item.setting}" for item in parts(plan)[0].selections)
    tuned = f" and {listed([*chosen])} selected anew" if chosen else ""
    how = {"westfall-young": " by Westfall-Young", "holm": " by Holm"}.get(design.method, "")
    return (
        f"{ended} of the whole design were run and judged, each with seeds of its own{tuned}: {design.planned} "
        f"replicates ({' and '.join(design.counted)}), {design.family} comparison{'s' * (design.family != 1)}{how}, "
        f"alpha {design.comparison.alpha:g}{looks}. The tables and verdicts of this report are those of the first "
        "repetition; this section counts them all."
    )


def _errors(study: Study, found: Sequence[Sequence[Case]], counted: Sequence[Counted]) -> Iterator[str]:
    assert study.comparison is not None
    assert study.rehearsal is not None
    alpha = study.comparison.alpha
    signs = {item.cases[0].about: _right(item, study) for item in counted}
    wrong = [
        [case for case in cases if case.verdict in CLAIMS and case.verdict != signs[case.about]] for cases in found
    ]
    errs = sum(bool(cases) for cases in wrong)
    yield (
        f"Wrong verdicts: in {_share(errs, len(found))} some comparison was called supported or contradicted and was "
        f"not; a design that keeps what it promises errs in at most {100 * alpha:g} % of its repetitions."
    )
    if not study.rehearsal.longer and any(not case.is_alike for cases in found for case in cases):
        yield _by_tuning(found, wrong)


def _by_tuning(found: Sequence[Sequence[Case]], wrong: Sequence[Sequence[Case]]) -> str:
    """Say how many wrong verdicts come from a choice that chance made differently in two arms that are the same."""
    (unlike, alike), (among, others) = (
        [sum(case.is_alike is same for cases in some for case in cases) for same in (False, True)]
        for some in (found, wrong)
    )
    return (
        f"Tuning gave arm and baseline different settings in {unlike} of {unlike + alike} comparisons, though the same "
        f"are best for both: at those settings they do differ. {among} of these comparisons got a wrong verdict, and "
        f"{others} of the {alike} with the same settings. A claim holds for the settings that were chosen; for the "
        "arms at their best it needs more tuning seeds (see docs/error_rates.md)."
    )


def _right(item: Counted, study: Study) -> Verdict | None:
    """Return the claim that is true of a comparison; None where nothing was planted."""
    assert study.comparison is not None
    if not item.longer:
        return None
    return "supported" if (item.truth.mean > 0) == study.comparison.higher_is_better else "contradicted"


def _detected(study: Study, found: Sequence[Sequence[Case]], counted: Sequence[Counted]) -> Iterator[str]:
    assert study.comparison is not None
    planted = [item for item in counted if item.longer]
    if not planted:
        return
    names = {item.cases[0].about: _right(item, study) for item in planted}
    hits = [[case.verdict == names[case.about] for case in cases if case.about in names] for cases in found]
    metric = study.comparison.metric.replace("_", " ")
    yield (
        f"Detected: at least one of the {len(planted)} planted effects in {_share(sum(map(any, hits)), len(found))}, "
        f"all of them in {_share(sum(map(all, hits)), len(found))}."
    )
    for item in sorted(planted, key=lambda item: abs(item.d_z or 0.0)):
        right = names[item.cases[0].about]
        assert right is not None
        size = f"d_z {_d_z(item)}"
        yield (
            f"{_name(item)}: an effect of {formatting.with_bounds(item.truth, signed=True)} in {metric} ({size}; "
            f"{100 * item.longer:g} % more steps) was found in {_share(item.count(right), len(item.cases))}"
            f"{'' if _has_sign(item.truth) else '; of its sign so few repetitions are not sure'}."
        )


def _name(item: Counted) -> str:
    arm, group = item.cases[0].about
    text = f"{group}, {arm}" if group else arm
    return f"{text[0].upper()}{text[1:]}"


def _has_sign(value: Number) -> bool:
    return value.low is not None and value.high is not None and value.low * value.high > 0


def _d_z(item: Counted) -> str:
    return formatting.NOTHING if item.d_z is None else f"{item.d_z:.2f}".replace("-", formatting.MINUS)


def _share(hits: int, total: int) -> str:
    """Return "3 of 20 repetitions (15 %, 95 % Clopper-Pearson 3 to 38 %)"."""
    found = proportion(hits, total)
    assert found.interval is not None
    low, high = (100 * value for value in (found.interval.low, found.interval.high))
    return f"{hits} of {total} repetitions ({100 * found.mean:.0f} %, 95 % Clopper-Pearson {low:.0f} to {high:.0f} %)"


def _limits(plan: Plan) -> str:
    shared = [stage for stage in ("teacher", "dataset") if len(plan.of_stage(stage)) == 1]
    shares = f" All repetitions share one {' and one '.join(shared)}: luck that a study has, too, and its claims name."
    return (
        "What this does not show: the noise of a tiny model is not that of another, so that power is to be read by "
        "d_z, not by a difference in loss; arms that share nothing but their seeds' numbers are not paired by data "
        "order, as a study's arms are; and so few repetitions measure a share no better than its interval says "
        f"(--axis repetition=$(seq -s, 100) runs more)."
        f"{shares if shared else ''}"
    )


def _grid(counted: Sequence[Counted]) -> Grid:
    header = ["comparison", "planted", "true difference", "d_z", *CLAIMS, "equivalent", "no claim"]
    rows = [_row(item) for item in counted]
    return Grid(header=header, rows=rows, caption="Verdicts over the repetitions, by comparison.")


def _row(item: Counted) -> list[str]:
    total = len(item.cases)
    known = [item.count(verdict) for verdict in (*CLAIMS, "equivalent")]
    planted = f"{100 * item.longer:g} % more steps" if item.longer else "nothing"
    truth = formatting.with_bounds(item.truth, signed=True)
    return [_name(item), planted, truth, _d_z(item), *(f"{n} of {total}" for n in [*known, total - sum(known)])]
