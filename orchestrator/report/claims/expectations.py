"""What the first users expect, measured: met, not met, or not testable and why.

"met" only where a test at alpha or the criterion in the row says so. p are adjusted over the ranks of one expectation;
the expectations are not adjusted for each other, and no verdict rests on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from orchestrator import statistics
from orchestrator.design import smallest_p
from orchestrator.record import Record
from orchestrator.report import formatting
from orchestrator.report.claims import decay
from orchestrator.report.claims.basis import Basis, Test, number, tests
from orchestrator.report.claims.words import estimate, listed, where
from orchestrator.report.sections import Grid, Section
from orchestrator.report.summary import Number
from trainables.base import Scalar

ARM, BASELINE = "svd", "random"
ENERGY = 0.85
ERRORS = (0.15, 0.05)
FEWER = (20, 40)
Answer: TypeAlias = Literal["met", "not met", "not testable"]
Asked: TypeAlias = list[tuple[dict[str, Scalar], Test]]


@dataclass(frozen=True)
class Row:
    """One expectation: what was measured, and whether it was met, with the reason where that needs one."""

    expectation: str
    measured: str
    answer: Answer
    why: str = ""

    @property
    def cells(self) -> list[str]:
        """The row as text."""
        return [self.expectation, self.measured, f"{self.answer}: {self.why}" if self.why else self.answer]


def section(basis: Basis) -> Section | None:
    """Return the table of expectations of a study that compares SVD with random starts."""
    if ARM not in basis.family.arms or str(basis.family.comparison.baseline) != BASELINE:
        return None
    rows = [row.cells for make in MAKERS for row in make(basis)]
    needed = ", ".join(f"{error:g} needs an energy of {1 - error**2:.4f}" for error in ERRORS)
    contradiction = (
        f"Relative error is sqrt(1 − energy): an energy of {ENERGY:g} is an error of {math.sqrt(1 - ENERGY):.2f}, and "
        f"an error of {needed}. So the expectations of an energy above {ENERGY:g} and an error below {ERRORS[0]:g} at "
        "one rank contradict each other: the first is met long before the second."
    )
    note = (
        "Met only where a test at alpha, or the criterion named, says so; p are adjusted over the ranks of one "
        "expectation, and not over the expectations: exploratory beside the verdicts."
    )
    grid = Grid(header=["expectation", "measured", "answer"], rows=rows, text_columns=3)
    return Section(name="expectations", title="Expectations", paragraphs=[contradiction, note], grids=[grid])


# -- energy and error at a rank ---------------------------------------------------------------------------


def energy(basis: Basis) -> Iterator[Row]:
    """Is the energy kept at the study's ranks above .85, and the relative error below .15 and .05?"""
    kept = {rank: _energies(basis.exports(), rank) for rank in basis.ranks}
    kept = {rank: values for rank, values in kept.items() if values}
    yield _above(f"energy at r above {ENERGY:g}", kept, ENERGY, lambda value: f"{value:.3f}")
    for error in ERRORS:
        limit = 1 - error**2
        yield _above(f"relative error at r below {error:g}", kept, limit, lambda value: f"{_error(value):.3f}")


def _above(expectation: str, kept: dict[int, list[float]], limit: float, show: Callable[[float], str]) -> Row:
    """Answer by the least energy over the teachers: exact numbers, so that no test is needed."""
    if not kept:
        return Row(expectation, formatting.NOTHING, "not testable", "no export of these ranks is finished")
    teachers = max(len(values) for values in kept.values())
    lowest = f", the least of {teachers} teachers" if teachers > 1 else ", one teacher"
    measured = "; ".join(f"r {rank}: {show(min(values))}" for rank, values in kept.items()) + lowest
    met = [str(rank) for rank, values in kept.items() if min(values) > limit]
    if len(met) == len(kept):
        return Row(expectation, measured, "met")
    return Row(expectation, measured, "not met", f"only at r {listed(met)}" if met else "at no rank")


def _energies(exports: Sequence[Record], rank: int) -> list[float]:
    """Return the energy at a rank, one per teacher."""
    by_teacher: dict[str, float] = {}
    for export in exports:
        value = number(export.metrics.get(f"energy_{rank}"))
        if value is not None:
            by_teacher.setdefault(export.inputs.get("teacher", export.id), value)
    return list(by_teacher.values())


def _error(kept: float) -> float:
    return math.sqrt(max(0.0, 1 - kept))


# -- the spectrum -----------------------------------------------------------------------------------------


def exponential(basis: Basis) -> Iterator[Row]:
    """Does the spectrum decay exponentially? Lower AIC than a power law in more than half of every type's layers."""
    name = "spectrum decays exponentially"
    export = next(iter(basis.exports()), None)
    path = basis.store.artefact(export.id) / "spectrum.csv" if export else None
    found = decay.by_type(decay.fits(path)) if path and path.is_file() else {}
    if not found:
        yield Row(name, formatting.NOTHING, "not testable", "no finished export has a spectrum of five values a layer")
        return
    told = [_decay_of(kind, fits) for kind, fits in found.items()]
    lost = [kind for kind, fits in found.items() if sum(fit.is_exponential for fit in fits) * 2 <= len(fits)]
    why = "lower AIC than a power law in more than half of the layers of every type; leading values only"
    measured = f"layers where exponential fits better: {'; '.join(told)}"
    if lost:
        yield Row(name, measured, "not met", f"a power law fits as well or better in {listed(lost)}")
    else:
        yield Row(name, measured, "met", why)


def _decay_of(kind: str, fits: Sequence[decay.Fit]) -> str:
    better = sum(fit.is_exponential for fit in fits)
    r2 = [float(np.median([getattr(fit, name) for fit in fits])) for name in ("r2_exponential", "r2_power")]
    return f"{kind} {better} of {len(fits)} (adjusted R² {r2[0]:.2f} against {r2[1]:.2f})"


def attention(basis: Basis) -> Iterator[Row]:
    """Is the change of attention of lower rank than that of the MLP? Energy at one rank, paired over the blocks."""
    name = "attention is lower-rank than MLP"
    found = _by_block(basis)
    if found is None:
        yield Row(name, formatting.NOTHING, "not testable", "no finished export tells attention and MLP apart")
        return
    rank, differences = found
    test = statistics.sign_flip(differences)
    n, p = test.estimate.n, formatting.p_value(test.p)
    measured = f"energy at r {rank}, attention − MLP: {estimate(test)} ({n} blocks, p {p})"
    alpha = basis.family.comparison.alpha
    if smallest_p(test.estimate.n) > alpha:
        yield Row(name, measured, "not testable", f"{test.estimate.n} blocks cannot give a p of {alpha:g}")
    elif test.p <= alpha and test.estimate.mean > 0:
        yield Row(name, measured, "met", "for this teacher; attention's smaller matrices are part of it")
    else:
        yield Row(name, measured, "not met")


def _by_block(basis: Basis) -> tuple[int, list[float]] | None:
    """Return the rank (the middle one of the study's) and attention - MLP in energy, for every block with both."""
    export = next(iter(basis.exports()), None)
    path = basis.store.artefact(export.id) / "by_depth.csv" if export else None
    if path is None or not path.is_file():
        return None
    table = pd.read_csv(path)
    ranks = [rank for rank in basis.ranks if f"energy_{rank}" in table]
    if not ranks:
        return None
    rank = ranks[len(ranks) // 2]
    wide = table.pivot_table(index="depth", columns="group", values=f"energy_{rank}")
    if not {"attention", "mlp"} <= set(wide.columns):
        return None
    return rank, (wide["attention"] - wide["mlp"]).dropna().tolist()


# -- the students -----------------------------------------------------------------------------------------


def starts_lower(basis: Basis) -> Iterator[Row]:
    """Does the SVD student start lower? It does by construction: a check, and no evidence."""
    name = "SVD starts lower in held-out loss"
    yield _paired(basis, name, "initial_eval_loss", "by construction: a check, not evidence")


def oscillates_less(basis: Basis) -> Iterator[Row]:
    """Does the SVD student's training loss oscillate less?"""
    yield _paired(
        basis, "training loss of SVD oscillates less", "oscillation", "a lower loss alone oscillates less, too"
    )


def _paired(basis: Basis, name: str, column: str, why: str) -> Row:
    """Answer by the paired tests of svd - random in a column of which less is expected."""
    asked = basis.against(ARM, column)
    return _tested(basis, name, asked, lambda test: test.paired.estimate.mean < 0, why)


def _tested(basis: Basis, name: str, asked: Asked, is_so: Callable[[Test], bool], why: str = "") -> Row:
    alpha = basis.family.comparison.alpha
    known = [(group, test) for group, test in asked if test.n]
    if not known:
        return Row(name, formatting.NOTHING, "not testable", "nothing of it is measured yet")
    measured = "; ".join(f"{where(group)}{_told(test)}" for group, test in known)
    if _is_open(basis):
        return Row(name, measured, "not testable", "replicates are still to come")
    if not any(_can(test, alpha) for _, test in known):
        return Row(
            name, measured, "not testable", f"{max(test.n for _, test in known)} pairs cannot give a p of {alpha:g}"
        )
    met = [group for group, test in known if test.p_adjusted is not None and test.p_adjusted <= alpha and is_so(test)]
    if len(met) == len(asked):
        return Row(name, measured, "met", why)
    shown = listed([formatting.group(group) for group in met if group])
    return Row(name, measured, "not met", f"shown only at {shown}" if shown else "not shown")


def _told(test: Test) -> str:
    return f"{estimate(test.paired)} (n {test.n}, p {formatting.p_value(test.p_adjusted)})"


def _can(test: Test, alpha: float) -> bool:
    """Say whether any data of this size could give such a p; equal differences of any size have one."""
    return smallest_p(test.n) <= alpha


def _is_open(basis: Basis) -> bool:
    return any(item.verdict == "interim" for item in basis.judged.differences)


def fewer_steps(basis: Basis) -> Iterator[Row]:
    """Does the SVD student need 20 to 40 % fewer steps to the target? By Fieller's interval of the ratio.

    Where every SVD student is at the target before its first step there is no saving to test: it starts at the teacher.
    """
    name = f"{FEWER[0]} to {FEWER[1]} % fewer steps to target"
    found = [(group, _saved(basis, group)) for group, _ in basis.family.cells()]
    known = [(group, value) for group, value in found if value is not None]
    if not known:
        yield Row(name, formatting.NOTHING, "not testable", "no run has reached, or failed to reach, a target yet")
        return
    measured = "; ".join(
        f"{where(group)}{formatting.with_bounds(value, signed=True)} % (n {value.n})" for group, value in known
    )
    given = [group for group, rows in basis.cells(ARM) if _starts_there(rows)]
    open_ones = [(group, value) for group, value in known if group not in given]
    if _is_open(basis):
        yield Row(name, measured, "not testable", "replicates are still to come")
    elif not open_ones:
        yield Row(name, measured, "not testable", f"by construction: {AT_TARGET}")
    else:
        answer, why = _fewer_of(open_ones)
        places = listed([formatting.group(group) for group in given])
        beside = f"by construction at {places}: {AT_TARGET}" if given else ""
        yield Row(name, measured, answer, "; ".join(filter(None, [why, beside])))


AT_TARGET = f"every {ARM} run is at the target before its first step"


def _starts_there(rows: pd.DataFrame) -> bool:
    """Say whether every run that has an answer was at the target at step 0."""
    columns = [rows[name] for name in ("steps_to_target", "steps_censored_at") if name in rows]
    answers = pd.concat(columns, axis=1).astype("float64").bfill(axis=1).iloc[:, 0].dropna() if columns else None
    return answers is not None and len(answers) > 0 and bool((answers == 0).all())


def _fewer_of(known: Sequence[tuple[dict[str, Scalar], Number]]) -> tuple[Answer, str]:
    """Answer for the groups whose students have a way to go, and say why."""
    answers = [_fewer(value) for _, value in known]
    if all(answer == "met" for answer in answers):
        return "met", _how_many_fewer([value for _, value in known])
    if "not met" in answers:
        places = [formatting.group(group) for (group, _), a in zip(known, answers, strict=True) if a == "not met"]
        return "not met", f"less than {FEWER[0]} % fewer at {listed(places)}" if any(places) else ""
    places = [formatting.group(group) for (group, _), a in zip(known, answers, strict=True) if a != "met"]
    at = f" at {listed(places)}" if any(places) else ""
    return "not testable", f"the interval holds −{FEWER[0]} %, or has no ends{at}"


def _how_many_fewer(found: Sequence[Number]) -> str:
    why = f"{FEWER[0]} % or more by the whole 95 % interval"
    beyond = all(value.high is not None and value.high < -FEWER[1] for value in found)
    return f"{why}; more than {FEWER[1]} %" if beyond else why


def _saved(basis: Basis, group: dict[str, Scalar]) -> Number | None:
    from orchestrator.report.quotes import percent_of_steps

    rows = next(rows for found, rows in basis.family.cells() if found == group)
    return percent_of_steps(basis.family, ARM, rows)


def _fewer(value: Number) -> Answer:
    if value.low is None or value.high is None:
        return "not testable"
    if value.high <= -FEWER[0]:
        return "met"
    return "not met" if value.low > -FEWER[0] else "not testable"


def order(basis: Basis) -> Iterator[Row]:
    """Is the order teacher < SVD < random in loss? Both differences, each tested."""
    metric = basis.family.comparison.metric
    name = f"teacher < SVD < random in {metric.replace('_', ' ')}"
    if not metric.endswith("loss"):
        yield Row(name, formatting.NOTHING, "not testable", f"the primary outcome is {metric}, no loss")
        return
    asked = basis.from_teacher(ARM)
    if not any(pairing.found.differences for _, pairing in asked):
        yield Row(name, formatting.NOTHING, "not testable", "no student and its teacher are finished")
        return
    first = _tested(
        basis,
        "svd − teacher",
        tests([(group, pairing.found.differences) for group, pairing in asked]),
        lambda test: test.paired.estimate.mean > 0,
    )
    second = _tested(basis, "svd − random", basis.against(ARM, metric), lambda test: test.paired.estimate.mean < 0)
    measured = f"{first.expectation} {first.measured}; {second.expectation} {second.measured}"
    answers = {first.answer, second.answer}
    answer: Answer = "not met" if "not met" in answers else "not testable" if "not testable" in answers else "met"
    parts = [f"{row.expectation}: {row.answer}" for row in (first, second) if row.answer != "met"]
    yield Row(name, measured, answer, "; ".join(parts))


MAKERS = (energy, exponential, attention, starts_lower, fewer_steps, oscillates_less, order)
