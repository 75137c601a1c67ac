"""What a plan cannot name yet, in words: how many runs wait for which tuning runs, and what blocks a selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from orchestrator.plan import Plan
from orchestrator.selection import Selection, written


def expected_line(plan: Plan, missing: Collection[str]) -> str:
    """Return how many runs wait for which selection, and how many tuning runs of `missing` come first; "" if none."""
    if not plan.expected:
        return ""
    counts = Counter(run.stage for run in plan.expected if run.purpose == "verdict")
    runs = " and ".join(f"{count} {stage}" for stage, count in counts.items())
    if plan.study.search is not None and plan.points_left:
        return f"{plan.points_left} of {plan.study.search.points} points are still to be asked for: about {runs} runs"
    settings = " and ".join(dict.fromkeys(f"{item.stage}.{item.setting}" for item in plan.open))
    first = sum(run in missing for item in plan.open for run in item.waiting)
    later = sum(run.purpose == "tuning" for run in plan.expected)
    more = f", some {later} more where the best is not clear, and more where it lies on an edge" if later else ""
    more = more or ", more if a best lies on an edge"
    tuning = f"{first} tuning run{'' if first == 1 else 's'} first{more}"
    return f"{runs} run{'' if sum(counts.values()) == 1 else 's'} once {settings} is selected: {tuning}"


def blocked(plan: Plan, running: Collection[str] = ()) -> list[str]:
    """Return a line per selection that nothing in `running` can still make: its tuning runs ended badly."""
    return [_why(item) for item in plan.open if not set(item.waiting) & set(running)]


def _why(item: Selection) -> str:
    if item.state == "blocked":
        return str(item)
    bad = f"{len(item.failed)} of its tuning runs failed, first {item.failed[0]}" if item.failed else ""
    bad = bad or f"{len(item.waiting)} of its tuning runs cannot start"
    return f"{item.stage}.{item.setting}{f' of {item.where}' if item.where else ''} is not selected: {bad}"


def made(before: Iterable[Selection], after: Iterable[Selection]) -> list[str]:
    """Return a line per selection that was made between two plans, whose grid has grown or whose race goes on."""
    known = {(item.where, item.setting): item for item in before}
    pairs = [(known.get((item.where, item.setting)), item) for item in after]
    return [line for old, new in pairs if (line := _news(old, new))]


def _news(old: Selection | None, new: Selection) -> str:
    if new.value is not None:
        return str(new) if old is None or str(old) != str(new) else ""
    if new.state != "open" or old is None or len(old.runs) == len(new.runs):
        return ""
    if len(new.tried) > len(old.tried):
        return f"{new}; the grid grows"
    values = " and ".join(written(tried.value) for tried in new.racing)
    return f"{new}; {values} are within noise of each other: {len(new.racing[0].runs)} tuning runs each"
