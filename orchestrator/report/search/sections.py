"""What the report of a search says, as sections: the best point, what matters, the points, how it was searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.report.search.figures import SIZE, words
from orchestrator.report.search.outcome import Found, value_text
from orchestrator.report.sections import Grid, Section
from orchestrator.search.points import Point
from orchestrator.space import Condition
from orchestrator.study import setting_of

SHOWN = 15
"""Points in the table, the best first; all are in points.csv."""
METHODS = {
    "tpe": "the tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), multivariate, in groups where axes "
    "have conditions, with running points counted as bad (constant liar)",
    "nsga2": "NSGA-II (Deb et al., 2002)",
    "random": "at random",
}
RULES = {
    "asha": "asynchronous successive halving (ASHA, Li et al., arXiv 1810.05934): at step {first} and at every "
    "{reduction}-fold of it only the best 1/{reduction} of the runs that have come so far go on",
    "median": "the median rule: from step {first} on, a run whose best held-out loss is above the median of the "
    "others' at that step ends",
}


def headline(found: Found) -> str:
    """Return the outcome in a sentence."""
    best, usual, metric = found.best, found.usual, words(found.search.objectives[0].metric)
    if best is None:
        return "No point is done yet."
    seeds = len(best.asked.runs)
    said = f"Best of {len(found.points)} points: {found.name(best)}, {metric} {best.values[0]:.4g}"
    said += f" (mean over {seeds} seeds)" if seeds > 1 else " (one run)"
    if usual is None:
        return f"{said}."
    if usual.number == best.number:
        return f"{said}: the usual settings; the search has found none that are better."
    return f"{said}; the usual settings have {usual.values[0]:.4g}."


def sections(found: Found, figures: Mapping[str, str], folder: str) -> list[Section]:
    """Return the sections in reading order; `figures` are those that were drawn, `folder` is where best.py lies."""
    return [
        _best(found, figures, folder),
        _course(found, figures),
        _matters(found, figures),
        *_trade_off(found, figures),
        _points(found),
        _method(found),
    ]


def _best(found: Found, figures: Mapping[str, str], folder: str) -> Section:
    shown = [(label, point) for label, point in (("best", found.best), ("usual", found.usual)) if point is not None]
    tested = any(found.tested(point) is not None for _, point in shown)
    metrics = [one.metric for one in found.search.objectives]
    header = ["settings", "point", *map(_title, found.axes), *map(words, metrics), *(["test loss"] if tested else [])]
    rows = [
        [
            label,
            str(point.number),
            *(value_text(point.at.get(axis)) for axis in found.axes),
            *(f"{value:.4g}" for value in point.values),
            *([_number(found.tested(point))] if tested else []),
        ]
        for label, point in shown
    ]
    caption = "The test data have chosen nothing; both rows are means over the point's seeds." if tested else ""
    said = (
        f"`python -m orchestrator sweep {folder}/best.py` tries these settings again on seeds that have not chosen them"
        f"{', against the usual ones, and has a verdict' if len(shown) > 1 else ''}: the best of many points is partly "
        "lucky, and what it is ahead by here is no estimate of what it will be ahead by there."
    )
    return Section(
        name="best-point",
        title="Best point",
        paragraphs=[said],
        grids=[Grid(header=header, rows=rows, caption=caption)],
    )


def _course(found: Found, figures: Mapping[str, str]) -> Section:
    counts = found.counts()
    steps = sum(point.steps for point in found.points)
    said = f"{len(found.points)} points: {', '.join(f'{count} {state}' for state, count in counts.items())}. "
    said += f"They took {steps:,} training steps in all."
    saved = _saved(found)
    if saved:
        said += f" Without pruning it would have been {steps + saved:,}: {saved / (steps + saved):.0%} were saved."
    return Section(name="history", title="Course of the search", paragraphs=[said], figures=_named("history", figures))


def _saved(found: Found) -> int:
    """Return the training steps that pruned points did not take."""
    whole = {point.steps for point in found.points if point.state == "done"}
    if len(whole) != 1:
        return 0
    (length,) = whole
    return sum(length - point.steps for point in found.points if point.state == "pruned")


def _matters(found: Found, figures: Mapping[str, str]) -> Section:
    shares = found.importances()
    if shares:
        told = ", ".join(f"{setting_of(axis).replace('_', ' ')} {share:.2f}" for axis, share in shares.items())
        said = f"Share of the variance that each setting explains: {told}."
        said += " It holds for this space and these points, which crowd where the search found them good."
    else:
        said = "Too few points are done to say what matters."
    names = [*_named("importance", figures), *_named("slices", figures)]
    return Section(name="importance", title="What matters", paragraphs=[said], figures=names)


def _trade_off(found: Found, figures: Mapping[str, str]) -> Iterator[Section]:
    if "trade_off" not in figures:
        return
    objectives = found.search.objectives
    if len(objectives) > 1:
        names = " and ".join(words(one.metric) for one in objectives)
        rows = [[str(p.number), found.name(p), *(f"{value:.4g}" for value in p.values)] for p in found.front]
        header = ["point", "settings", *(words(one.metric) for one in objectives)]
        said = f"No point beats these {len(rows)} in one of {names} without losing in the other."
        grids = [Grid(header=header, rows=rows, text_columns=2)]
    else:
        said, grids = f"The search did not look at {words(SIZE)}; this is what its points came to have.", []
    yield Section(name="front", title="Trade-off", paragraphs=[said], grids=grids, figures=["trade_off"])


def _points(found: Found) -> Section:
    sign = -1 if found.search.objectives[0].higher_is_better else 1
    done = sorted((p for p in found.points if p.state == "done"), key=lambda p: (sign * p.values[0], p.number))
    others = [point for point in found.points if point.state != "done"]
    metrics = [words(one.metric) for one in found.search.objectives]
    rows = [_row(found, point) for point in [*done, *others][:SHOWN]]
    caption = f"The first {SHOWN} of {len(found.points)}, by {metrics[0]}. All are in points.csv."
    header = ["point", *map(_title, found.axes), *metrics, "steps", "ended"]
    return Section(name="points", title="Points", grids=[Grid(header=header, rows=rows, caption=caption)])


def _row(found: Found, point: Point) -> list[str]:
    values = [f"{value:.4g}" for value in point.values] if point.state == "done" else []
    blank = [""] * (len(found.search.objectives) - len(values))
    at = [value_text(point.at.get(axis)) for axis in found.axes]
    return [str(point.number), *at, *values, *blank, str(point.steps), point.state]


def _method(found: Found) -> Section:
    search = found.search
    said = [f"Points are asked for by {METHODS[search.sampler]}, seed {search.seed}, by Optuna."]
    if search.sampler != "random":
        first = f"The first is the usual settings, and the first {search.startup}" if search.usual else "The first"
        said[0] += f" {first}{'' if search.usual else f' {search.startup}'} are not chosen by what is known."
    if search.prune is not None:
        rule = RULES[search.prune.rule].format(first=search.prune.first, reduction=search.prune.reduction)
        arm = f" and {setting_of(search.arm)}" if search.arm else ""
        said.append(
            f"Runs end early by {rule}. A run is compared with runs of its own seed{arm} only; a point ends as a whole."
        )
    grid = Grid(
        header=["axis", "range", "where"],
        rows=[[axis, str(of), _condition(of.when)] for axis, of in search.space.items()],
        text_columns=3,
        caption="The space.",
    )
    return Section(name="method", title="How it was searched", paragraphs=said, grids=[grid])


def _condition(when: Condition) -> str:
    return "; ".join(f"{setting_of(axis)} {', '.join(map(str, values))}" for axis, values in when.items())


def _named(name: str, figures: Mapping[str, str]) -> list[str]:
    return [name] if name in figures else []


def _title(axis: str) -> str:
    return setting_of(axis).replace("_", " ")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
