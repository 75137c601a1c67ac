"""How sure is each choice that tuning runs made, and which comparisons rest on one that is not?

A choice is clear if the best value is ahead of the next by more than noise (orchestrator.selection.Lead). Where it is
not, chance may have given two arms that are alike different values, at which they truly differ: how often, simulated,
is in docs/error_rates.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from orchestrator.plan import Plan
from orchestrator.report import formatting
from orchestrator.report.claims.decide import with_tuning_seeds
from orchestrator.report.claims.words import listed
from orchestrator.report.sections import Grid, Section
from orchestrator.report.summary import Difference
from orchestrator.selection import CLEAR, Selection, written
from orchestrator.study import setting_of

NAME, TITLE = "selection", "Selected settings"


def section(plan: Plan, differences: Sequence[Difference], command: str) -> Section | None:
    """Return how sure the choices are; `command` is what the one with more tuning seeds is made from."""
    made = [item for item in plan.selections if item.value is not None]
    if not made:
        return None
    unsure = [item for item in differences if any(map(_is_unsure, itertools.chain(*choices_of(plan, item))))]
    paragraphs = [_about(plan, made), *_unsure(plan, unsure, command)]
    return Section(name=NAME, title=TITLE, paragraphs=paragraphs, grids=[_grid(made)])


def choices_of(plan: Plan, difference: Difference) -> tuple[list[Selection], list[Selection]]:
    """Return the choices behind a comparison: those of its arm and those of its baseline; pooled ones are of both."""
    arm = plan.study.comparison.arm if plan.study.comparison else ""
    found: tuple[list[Selection], list[Selection]] = ([], [])
    for item in plan.selections:
        own = {setting_of(axis): value for axis, value in item.labels.items() if axis != arm}
        if all(own.get(axis, value) == value for axis, value in difference.group.items()):
            of = str(item.labels[arm]) if arm in item.labels else None
            for side, name in zip(found, (difference.arm, difference.baseline), strict=True):
                side += [item] if of in (None, name) else []
    return found


def is_clear(item: Selection) -> bool:
    """Say whether a choice was made by more than noise; with one tuning seed nobody can say so."""
    return item.lead is not None and item.lead.is_clear


def _is_unsure(item: Selection) -> bool:
    return item.value is not None and not is_clear(item)


def _about(plan: Plan, made: Sequence[Selection]) -> str:
    settings = listed([f"`{name}`" for name in plan.study.selected])
    clear = sum(map(is_clear, made))
    told = (
        f"{clear} of {len(made)} choices {'is' if clear == 1 else 'are'} clear"
        if len(made) > 1
        else f"the choice is {_word(made[0])}"
    )
    blind = sum(item.lead is None for item in made)
    seeds = f"; of {blind} nothing can be said, for one tuning seed shows no noise" if blind else ""
    return (
        f"Tuning runs chose {settings}, on seeds that no verdict uses: {told}{seeds}. Clear is ahead of the next by "
        f"more than {CLEAR:g} standard errors of the difference of their means over the same seeds, from what values "
        "and seeds leave of the choice's own losses. Verdicts hold at what was chosen; the luck of the choice is in no "
        "interval and in no p."
    )


def _unsure(plan: Plan, unsure: Sequence[Difference], command: str) -> list[str]:
    if not unsure:
        return []
    most = max(len(rule.seeds) for rule in plan.study.selected.values())
    names = listed([f"{item.arm} − {item.baseline}{_at(item)}" for item in unsure])
    them = "This rests" if len(unsure) == 1 else f"These {len(unsure)} comparisons rest"
    return [
        f"{them} on a choice within noise: {names}.{_regrets(plan, unsure)} What is said of them holds at these "
        f"settings, and less surely for the arms at their best. `{with_tuning_seeds(plan, command, 2 * most)}` makes "
        "the choices surer; where one changes, its verdict runs are new ones, and whoever asks for that because of a "
        "verdict has looked twice."
    ]


def _regrets(plan: Plan, unsure: Sequence[Difference]) -> str:
    """Return a sentence on what other choices could gain; nothing where one seed shows no noise."""
    choices = [item for one in unsure for side in choices_of(plan, one) for item in side if _is_unsure(item)]
    found = {f"{item.regret:.2g} ({item.where or item.setting})": None for item in choices if item.regret is not None}
    return f" Others that were tried may be better by at most {listed([*found])} in validation loss." if found else ""


def _at(item: Difference) -> str:
    where = formatting.group(item.group)
    return f" at {where}" if where else ""


def _word(item: Selection) -> str:
    lead = item.lead
    return "one seed: not known" if lead is None else "clear" if lead.is_clear else "within noise"


def _grid(made: Sequence[Selection]) -> Grid:
    axes = list(dict.fromkeys(axis for item in made for axis in item.labels))
    several = len({(item.stage, item.setting) for item in made}) > 1
    header = [*(["setting"] if several else []), *map(setting_of, axes)]
    rows = [[*([item.setting] if several else []), *_row(axes, item)] for item in made]
    columns = ["chosen", "among", "tuning seeds", "next", "distance", "standard error", "regret at most", "choice"]
    caption = (
        "The chosen value; the range and number of those it was chosen among (a range grows while its best lies on its "
        "edge); how many tuning runs it and those that raced with it to the end had each; how far the next best of "
        "them is behind in validation loss, and the standard error of this distance; by how much one of them may be "
        f"better after all, {CLEAR:g} standard errors of its distance."
    )
    return Grid(header=[*header, *columns], rows=rows, text_columns=len(header), caption=caption)


def _row(axes: Sequence[str], item: Selection) -> list[str]:
    assert item.value is not None
    own = [str(item.labels.get(axis, formatting.NOTHING)) for axis in axes]
    edge = " (edge of its grid)" if item.state == "on the edge" else ""
    values = [tried.value for tried in item.tried]
    among = f"{written(min(values))} to {written(max(values))} ({len(values)})"
    chosen = [f"{written(item.value)}{edge}", among, str(len(item.racing[0].runs))]
    lead = item.lead
    if lead is None:
        return [*own, *chosen, *[formatting.NOTHING] * 4, _word(item)]
    if lead.distance == float("inf"):
        return [*own, *chosen, written(lead.behind), "diverged", formatting.NOTHING, "0", _word(item)]
    numbers = [f"{value:.2g}" for value in (lead.distance, lead.error, item.regret)]
    return [*own, *chosen, written(lead.behind), *numbers, _word(item)]
