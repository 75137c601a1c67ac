"""Does an arm's difference depend on what splits the family, such as the rank? Exploratory: a p, and no verdict."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.statistics import Interaction, interaction
from trainables.base import Scalar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Dependence:
    """How the difference of `arm` changes over the values of the one `by` column; the slope is per doubling of it."""

    arm: str
    by: str
    values: tuple[float, ...]
    n: int
    found: Interaction


def dependences(
    by: Sequence[str], cases: Sequence[tuple[str, Mapping[str, Scalar], Mapping[K, float]]]
) -> Iterator[Dependence]:
    """Yield each arm's dependence on the one column of `by`, where its values are positive numbers.

    `cases` are (arm, group, differences by replicate). Only replicates that have all values count; fewer than two of
    either leave nothing to test.
    """
    if len(by) != 1:
        return
    for arm in dict.fromkeys(arm for arm, _, _ in cases):
        mine = [(group[by[0]], found) for name, group, found in cases if name == arm]
        values = [value for value, _ in mine if isinstance(value, int | float) and not isinstance(value, bool)]
        complete = [key for key in mine[0][1] if all(key in found for _, found in mine)]
        if len(values) < max(2, len(mine)) or min(values) <= 0 or len(complete) < 2:
            continue
        table = [[found[key] for _, found in mine] for key in complete]
        scores = [math.log2(value) for value in values]
        yield Dependence(arm, by[0], tuple(map(float, values)), len(complete), interaction(table, scores))
