"""The exact command that would decide what is not decided, and what its number of replicates rests on.

What was tested at the full alpha is spent: adding seeds to it and testing again would be a look that nobody declared.
So an inconclusive comparison is decided by fresh replicates, judged alone; a design that could not conclude at all has
spent nothing, and is made larger.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from orchestrator import statistics
from orchestrator.design import can_conclude, needed_for_equivalence
from orchestrator.plan import Plan
from orchestrator.replication import Design, counted_axes, design_of, is_fold, is_for_verdict, lengthened
from orchestrator.report import formatting
from orchestrator.report.differences import Judged
from orchestrator.report.summary import Difference
from orchestrator.statistics.power import LARGEST

KEPT = ("--scale", "--set", "--axis", "--place", "--teacher", "--tuning-seeds", "--store", "--views")
"""Options of the command at hand that say which study this is, and where."""


def deciding(plan: Plan, judged: Judged, command: str) -> list[Difference]:
    """Return the comparisons with the command that would decide each of them, where one is needed."""
    design = design_of(plan)
    if design is None:
        return judged.differences
    chosen = _Deciding(plan, design, judged, _Words.of(command, plan))
    return [
        item.model_copy(update=dict(zip(("decide", "decide_why"), chosen.of(item), strict=True)))
        for item in judged.differences
    ]


def sweep_command(plan: Plan, command: str = "") -> str:
    """Return the sweep that makes this study's runs, with those options of `command` that say which study it is."""
    return _Words.of(command, plan).with_options()


@dataclass(frozen=True)
class _Words:
    """A sweep of this study, as it was written; axes are replaced, never named twice."""

    study: str
    options: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, command: str, plan: Plan) -> _Words:
        words = shlex.split(command)[3:]
        if len(words) < 2:
            return cls(plan.study.name, (("--scale", plan.study.scale),) if plan.study.scale else ())
        found: list[tuple[str, str]] = []
        for at, word in enumerate(words):
            name, equals, value = word.partition("=")
            if word in KEPT and at + 1 < len(words):
                found.append((word, words[at + 1]))
            elif equals and name in KEPT:
                found.append((name, value))
        return cls(_study_among(words[1:]), tuple(found))

    def with_options(self, added: Iterable[tuple[str, str]] = ()) -> str:
        """Return the command, an added option taking the place of one for the same setting."""
        new = list(added)
        taken = set(map(_about, new))
        kept = [pair for pair in self.options if _about(pair) not in taken]
        return shlex.join(
            ["python", "-m", "orchestrator", "sweep", self.study, *(w for pair in kept + new for w in pair)]
        )


def _about(option: tuple[str, str]) -> tuple[str, str]:
    """Return what an option sets: itself, or the setting that its value names."""
    name, value = option
    return name, value.partition("=")[0] if "=" in value else ""


def with_tuning_seeds(plan: Plan, command: str, count: int) -> str:
    """Return the sweep of the command at hand with so many tuning seeds."""
    return _Words.of(command, plan).with_options([("--tuning-seeds", str(count))])


def _study_among(words: Sequence[str]) -> str:
    """Return the one word that is neither an option nor an option's value."""
    with_value = {
        at + 1 for at, word in enumerate(words) if word in (*KEPT, "--address", "--redo", "--retry", "--until")
    }
    plain = [word for at, word in enumerate(words) if not word.startswith("-") and at not in with_value]
    return plain[0]


@dataclass(frozen=True)
class _Deciding:
    plan: Plan
    design: Design
    judged: Judged
    words: _Words

    def of(self, item: Difference) -> tuple[str, str]:
        """Return the command and the reason for its number; empty where nothing is open."""
        if item.verdict == "interim":
            return self._next_look(item)
        if item.verdict not in ("inconclusive", "under-powered by design"):
            return "", ""
        if item.unit == "item":
            return "", "n counts items: more records to test on would decide"
        if item.verdict == "under-powered by design":
            return self._larger()
        if self._is_short(item):
            lost = item.planned - len(item.pairs)
            return self.words.with_options(), f"tries what {lost} of {item.planned} pairs lost once more"
        return self._fresh(item)

    def _is_short(self, item: Difference) -> bool:
        method = item.adjusted_by or self.judged.method
        alpha = self.design.comparison.alpha
        return len(item.pairs) < item.planned and not can_conclude(
            len(item.pairs), self.design.family, alpha, method=method
        )

    def _larger(self) -> tuple[str, str]:
        need = self.design.needed
        looks = " (its looks are declared anew in the study)" if self.design.comparison.looks else ""
        why = f"{need} replicates are the fewest with which {_comparisons(self.design.family)} can conclude{looks}"
        return self._extended(need), f"{why}; nothing could be concluded from fewer, so that none of alpha is spent"

    def _next_look(self, item: Difference) -> tuple[str, str]:
        later = [n for n in self.design.comparison.looks if n > len(item.pairs)]
        if later and later[0] > self.design.have:
            return self._extended(later[0]), f"the next declared look is after {later[0]}"
        return self.words.with_options(), "goes on with what is still to come"

    def _fresh(self, item: Difference) -> tuple[str, str]:
        """Return fresh replicates enough for every open comparison that any number would decide: they run together."""
        if is_fold(counted_axes(self.plan.study, self.design)[0]):
            return "", "other records would decide: folds of the same ones are no fresh replicates"
        if self._needs[_name(item)][0] is None:
            return "", self._needs[_name(item)][1]
        known = [(need, why) for need, why in self._needs.values() if need is not None]
        need, why = max(known, key=lambda pair: pair[0])
        most = f", the most that {len(known)} open comparisons need" if len(known) > 1 else ""
        return self._extended(need, is_fresh=True), (
            f"{why}{most}; {need} fresh replicates, judged alone: those that were seen are spent"
        )

    @cached_property
    def _needs(self) -> dict[str, tuple[int | None, str]]:
        """How many fresh replicates each inconclusive comparison needs, and what that rests on."""
        open_ones = [item for item in self.judged.differences if item.verdict == "inconclusive"]
        return {_name(item): self._powered(item) for item in open_ones if not self._is_short(item)}

    def _powered(self, item: Difference) -> tuple[int | None, str]:
        comparison, sd = self.design.comparison, float(np.std(item.pairs, ddof=1)) if len(item.pairs) > 1 else 0.0
        least, family, alpha = self.design.needed, self.design.family, comparison.alpha
        mean = abs(float(np.mean(item.pairs)))
        effect = comparison.margin or mean
        if sd <= 0:
            return None, "the differences have no spread to compute a number of replicates from"
        need = statistics.replicates_for(lambda n: self._power(n, effect / sd), least)
        label = "the observed effect (an estimate, and a noisy one)"
        if comparison.margin is not None:
            label = (
                f"a difference as large as the margin of {comparison.margin:g}, and for equivalence if there is none"
            )
            near = statistics.replicates_for(
                lambda n: statistics.power_of_equivalence(n, effect, sd, family, alpha=alpha),
                max(least, needed_for_equivalence(family, alpha)),
            )
            need = None if need is None or near is None else max(need, near)
        size = f"d_z {effect / sd:.2f}{self._where(item)}"
        if need is None:
            return None, f"more than {LARGEST} replicates would be needed for 80 % power for {label}, {size}"
        return (
            need,
            f"80 % power for {label}: {size}, by {_methods(self.judged, comparison.margin)}, normal differences",
        )

    def _where(self, item: Difference) -> str:
        arm = f" of {item.arm}" if len({other.arm for other in self.judged.differences}) > 1 else ""
        place = formatting.group(item.group)
        return f"{arm} at {place}" if place else arm

    def _power(self, n: int, d_z: float) -> float:
        return statistics.power_of_difference(
            n,
            d_z,
            self.design.family,
            method=self.judged.method,
            alpha=self.design.comparison.alpha,
            correlation=self._correlation,
        )

    @cached_property
    def _correlation(self) -> float:
        """Return the mean correlation between comparisons over the replicates they share; 0 where it is negative."""
        shared = [dict(zip(item.replicates, item.pairs, strict=True)) for item in self.judged.differences]
        keys = [key for key in shared[0] if all(key in found for found in shared)]
        table = np.array([[found[key] for found in shared] for key in keys])
        if len(keys) < 3 or table.shape[1] < 2 or (table.std(axis=0) == 0).any():
            return 0.0
        above = np.corrcoef(table.T)[np.triu_indices(table.shape[1], 1)]
        return max(0.0, float(above.mean()))

    def _extended(self, need: int, *, is_fresh: bool = False) -> str:
        """Return the sweep with `need` replicates in all, or with so many fresh ones."""
        study = self.plan.study
        options = lengthened(study, self.design, need, is_fresh=is_fresh, avoid=self._tuning_seeds)
        return self.words.with_options(options)

    @cached_property
    def _tuning_seeds(self) -> set[object]:
        tuning = [run for run in self.plan.runs if not is_for_verdict(run)]
        declared = {seed for item in self.plan.selections for seed in item.rule.seeds}
        return declared | {getattr(run.config, "seed", None) for run in tuning}


def _comparisons(count: int) -> str:
    return f"{count} comparison{'s' if count != 1 else ''}"


def _methods(judged: Judged, margin: float | None) -> str:
    named = formatting.METHODS.get(judged.method, "the sign-flip test")
    return f"{named} and Holm for equivalence" if margin is not None and named == "Westfall-Young" else named


def _name(item: Difference) -> str:
    return f"{item.arm} {formatting.group(item.group)}"
