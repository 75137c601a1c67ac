"""Paired comparisons that hold: replicates, exact tests, families, looks, margins, censored steps.

    replicates.py   runs -> one difference per independent replicate: what n counts
    sign_flip.py    the exact test, its interval and d_z
    families.py     several comparisons: Westfall-Young where they share their replicates, else Holm
    equivalence.py  is the difference smaller than a margin, is it not worse by one
    items.py        pairs by item: n items, an interval over items and runs together
    interaction.py  does the difference depend on the rank
    steps.py        steps to target: first hits between evaluations, censoring, Kaplan-Meier, restricted means
    power.py        how many replicates would decide
    estimates.py    means and ratios of means with their intervals

What a design can reach, and the levels of several looks, need no numbers: `orchestrator.design`.
"""

from orchestrator.statistics.equivalence import (
    Equivalence,
    equivalence,
    non_inferiority,
    one_sided,
    smallest_not_inferior,
)
from orchestrator.statistics.estimates import (
    Estimate,
    Interval,
    gap_closed,
    mean_interval,
    proportion,
    ratio_of_means,
)
from orchestrator.statistics.families import Adjusted, adjust, holm, method_for, westfall_young
from orchestrator.statistics.interaction import Interaction, interaction
from orchestrator.statistics.items import ByItem, Spread, flip_items, paired_by_item, two_way
from orchestrator.statistics.power import power_of_difference, power_of_equivalence, replicates_for
from orchestrator.statistics.replicates import Replicates, independent_depth, paired_differences
from orchestrator.statistics.sign_flip import Paired, sign_flip, standardised
from orchestrator.statistics.steps import (
    Hit,
    StepsToTarget,
    Survival,
    common_horizon,
    first_hit,
    kaplan_meier,
    logrank,
    steps_to_target,
)

__all__ = [
    "Adjusted",
    "ByItem",
    "Equivalence",
    "Estimate",
    "Hit",
    "Interaction",
    "Interval",
    "Paired",
    "Replicates",
    "Spread",
    "StepsToTarget",
    "Survival",
    "adjust",
    "common_horizon",
    "equivalence",
    "first_hit",
    "flip_items",
    "gap_closed",
    "holm",
    "independent_depth",
    "interaction",
    "kaplan_meier",
    "logrank",
    "mean_interval",
    "method_for",
    "non_inferiority",
    "one_sided",
    "paired_by_item",
    "paired_differences",
    "power_of_difference",
    "power_of_equivalence",
    "proportion",
    "ratio_of_means",
    "replicates_for",
    "sign_flip",
    "smallest_not_inferior",
    "standardised",
    "steps_to_target",
    "two_way",
    "westfall_young",
]
