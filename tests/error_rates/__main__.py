"""`python -m tests.error_rates`: simulate, and print docs/error_rates.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.error_rates.measure import (
    CHOSEN,
    COSTS,
    COVERED,
    FAMILIES,
    MEETING,
    OTHERS,
    POWERED,
    RULES,
    STUDIES,
    Rate,
    choosing,
    coverage,
    errors,
    nominal,
    power,
    reckoned,
)
from tests.error_rates.worlds import World

INTRODUCTION = """\
# Error rates

How often the statistical path errs, covers and detects: simulated studies, judged by the report's own code. Tuning runs
choose each arm's learning rate at each rank, the verdict's seeds run at it, runs become paired differences by
replicate, p is adjusted over the family at every declared look, and a verdict is given. Seeded; about two minutes:

    python -m tests.error_rates > docs/error_rates.md

An sd is that of the difference of one pair of runs. Three ranks, seven seeds, one teacher and one look unless said
otherwise; ranks share their seeds (Westfall-Young) unless they have their own (Holm). Intervals are Clopper-Pearson's.
"""
ERRORS = f"""\
## Wrong verdicts

In how many of {FAMILIES} studies some comparison was called supported or contradicted without a true difference of
that sign (or equivalent with one as large as the margin): the family-wise error, at most 5 % by design. Where the
tests' assumptions hold (independent replicates whose differences are as likely as their negatives), the lower 99 %
limit has to be at most 5 %; the other worlds are reported as they are.
"""
READING = """\
Read: what breaks the promise is differences that are skewed (one arm far noisier than the other, and that with a tail),
counting the students of one teacher as if they spoke for all teachers, and looking again and again at full alpha. Few
tuning seeds are a risk of their own: where rates matter (here a rate half a decade off costs one sd), a noisy choice
gives the arms rates that truly differ. A claim then holds for the rates that were chosen, and much less surely for the
arms at their best. Choosing rates on the judged runs shows as a bias, in the next table.
"""
CHOOSING = f"""\
## Choosing the learning rates

Two equal arms whose rates matter, {CHOSEN} studies each: in how many some comparison was called supported or
contradicted, which of the arms at their best is wrong, and (in brackets) the tuning runs of a choice. By what a rate
half a decade off costs; three rates, two more where the best lies on the edge. A race begins on two seeds for every
rate; those within three standard errors of the best go on, on twice as many seeds each time.
"""
CHOOSING_READING = """\
Read: a choice on two seeds is much noisier than a verdict on seven, and errs for it. Racing on up to eight errs about
as eight seeds for every rate do, and takes the fewer runs the more a rate costs: it is what the scales do
(`Selected(start=2)`, `--tuning-seeds 8`). Sixteen are better still. Where every replicate chooses for itself the luck
of the choice is in the interval, and arms of equal noise are safe; but the noisier of two arms that are equal at their
best chooses worse and is told from the other, and the runs are nearly those of eight seeds.
"""


def main() -> None:
    """Print the document."""
    sys.stdout.write(f"{INTRODUCTION}\n{ERRORS}\n")
    header = ("world", "wrong, %", "95 % interval", "lower 99 % limit")
    rows = [(world.name, *_percent(rate), f"{100 * rate.lower_99:.1f}") for world, rate in _counted(MEETING)]
    _table(("assumptions hold", *header[1:]), rows)
    rows = [(world.name, *_percent(rate), f"{100 * rate.lower_99:.1f}") for world, rate in _counted(OTHERS)]
    _table(("assumptions do not hold", *header[1:]), rows)
    sys.stdout.write(f"{READING}\n")
    choices()
    sys.stdout.write("## Coverage of the 95 % intervals\n\n")
    sys.stdout.write(
        f"{FAMILIES} studies each. Exact: what the inverted test covers where its assumptions hold; n pairs give it "
        "steps. Bias: of the mean difference, in sd.\n\n"
    )
    covered = [(world, coverage(world)) for world in COVERED]
    exact = {world.name: f"{100 * nominal(world):.1f}" if world.meets else "–" for world in COVERED}
    _table(
        ("world", "covered, %", "95 % interval", "exact", "bias"),
        [(world.name, *_percent(rate), exact[world.name], f"{bias:+.2f}") for world, (rate, bias) in covered],
    )
    sys.stdout.write("## Power against a known effect\n\n")
    sys.stdout.write(
        f"Share of true differences supported, over all comparisons of {STUDIES} studies (those of one study depend on "
        "each other, so that there is no interval). Reckoned: by the formula behind the deciding commands, which asks "
        "for significance at the adjustment's first and strictest step.\n\n"
    )
    _table(("design", "n", "d_z", "power, %", "reckoned, %"), [_power_row(world) for world in POWERED])


def choices() -> None:
    """Print the section on choosing rates."""
    sys.stdout.write(f"{CHOOSING}\n")
    rows = [(rule, *(_share_and_runs(*choosing(rule, cost)) for cost in COSTS)) for rule in RULES]
    _table(("wrong, % (tuning runs of a choice)", *COSTS), rows)
    sys.stdout.write(f"{CHOOSING_READING}\n")


def _share_and_runs(rate: Rate, runs: float) -> str:
    return f"{100 * rate.share:.1f} ({runs:.1f})"


def _counted(worlds: Sequence[World]) -> list[tuple[World, Rate]]:
    return [(world, errors(world)) for world in worlds]


def _percent(rate: Rate) -> tuple[str, str]:
    interval = rate.interval
    return f"{100 * rate.share:.1f}", f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _power_row(world: World) -> tuple[str, ...]:
    formula = reckoned(world)
    n = world.n if world.teachers == 1 else world.teachers
    shown = "–" if formula is None else f"{100 * formula:.0f}"
    return world.name, str(n), f"{-world.effect[0]:g}", f"{100 * power(world).share:.0f}", shown


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = ["| " + " | ".join(header) + " |", "| :-- |" + " --: |" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    sys.stdout.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
