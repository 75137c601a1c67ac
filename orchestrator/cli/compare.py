"""`compare`: are the arms in any table of runs really different; paired, exact, adjusted, in words.

The table may come from anything: a CSV or JSON lines file with a row for each run (or, with --step, for each step of
it), or an MLflow experiment. Arms are compared with the baseline on what they share, such as a seed.
"""

from __future__ import annotations

import argparse
from typing import Any

from orchestrator.cli.options import add_json, console, print_json

EPILOG = """\
examples
  python -m orchestrator compare runs.csv --arm init --baseline random --pair seed --metric eval_loss --by rank
  python -m orchestrator compare runs.csv --arm init --baseline random --pair seed --metric accuracy --higher-is-better
  python -m orchestrator compare curves.jsonl --arm init --baseline random --pair seed --metric eval_loss \\
      --step step --target 1.05                 steps to the first evaluation at 1.05 or below; none: censored
  python -m orchestrator compare runs.csv --arm init --baseline random --pair teacher_seed,seed \\
      --replicate teacher_seed --metric loss    n counts teachers; students of one are averaged
  python -m orchestrator compare mlflow:rank_study --arm init --baseline random --pair seed --metric test_loss --by rank
  python -m orchestrator compare 'sqlite:///mlruns.db#my experiment' --arm init ...

what it does
  pairs      each arm's run and the baseline's with the same --pair; repeats of a pair are averaged, never counted.
             Six pairs are the fewest with which any data can be significant: with n pairs p is 2^(1-n) at least.
  test       the exact sign-flip test of the paired differences; the interval holds what the same test keeps
  family     arms x values of --by. Where all share their replicates: Westfall-Young, which needs six for any number
             of comparisons; else Holm: seven for two or three, eight for four to six.
  --margin   the smallest difference that matters, fixed before you looked: "equivalent" if the interval lies within it
             (several comparisons: their p are adjusted by Holm)
  --looks    you test while data still come in: numbers of replicates fixed beforehand that share alpha, such as 6,9,12
  verdicts   supported, contradicted (the arm is better, worse), equivalent, inconclusive, interim, under-powered by
             design (no data of that many pairs could have been significant)

Duplicate seeds, missing cells, NaN, runs of unequal length, steps logged twice and curves that leave the target again
are each named in a note. What is left out is said; a pair with a diverged run is left out of means and counts as
never in steps to target.
"""


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "compare",
        help="are the arms in any CSV, JSON lines or MLflow table different",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "table", metavar="TABLE", help="a .csv, .tsv, .json or .jsonl file, mlflow:EXPERIMENT, or URI#EXPERIMENT"
    )
    what = parser.add_argument_group("what is compared")
    what.add_argument("--arm", metavar="COLUMN", required=True, help="the column that says which arm a run is")
    what.add_argument("--baseline", metavar="VALUE", required=True, help="the arm that the others are compared with")
    what.add_argument("--pair", metavar="A,B", required=True, type=_names, help="columns that arms share, such as seed")
    what.add_argument("--metric", metavar="COLUMN", required=True, help="the one outcome; lower is better")
    what.add_argument("--higher-is-better", action="store_true", help="of the metric")
    what.add_argument("--by", metavar="A,B", type=_names, default=(), help="columns that split the family: rank")
    what.add_argument(
        "--where",
        metavar="COLUMN=VALUE",
        type=_condition,
        action="append",
        default=[],
        help="only rows that have this, such as stage=student (repeatable)",
    )
    what.add_argument(
        "--replicate",
        metavar="A,B",
        type=_names,
        default=(),
        help="those of --pair whose values n counts (a teacher's seed, a split): pairs within one are averaged",
    )
    curves = parser.add_argument_group("tables with several rows a run")
    curves.add_argument("--step", metavar="COLUMN", help="the training step; the last value of each run is compared")
    curves.add_argument("--target", metavar="VALUE", type=float, help="compare the steps until the metric is there")
    curves.add_argument("--run", metavar="COLUMN", help="tells runs of one arm and pair apart (default: run_id, run)")
    claim = parser.add_argument_group("what is claimed")
    claim.add_argument("--margin", metavar="X", type=float, help="the smallest difference that matters")
    claim.add_argument("--looks", metavar="N,M", type=_sizes, default=(), help="declared looks, up to the largest n")
    claim.add_argument("--alpha", metavar="A", type=float, default=0.05, help="family-wise error (default: 0.05)")
    add_json(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the comparison of a table's arms."""
    from orchestrator.compare import Request, compare
    from orchestrator.compare.show import as_json, show

    names = [name for name in Request.__dataclass_fields__ if hasattr(options, name)]
    given = {name: getattr(options, name) for name in names}
    answer = compare(Request(**given | {"where": tuple(options.where)}))
    if options.json:
        print_json(as_json(answer))
    else:
        show(answer, console())
    return 0


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: give different column names, such as teacher_seed,seed")
    return names


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: write it as COLUMN=VALUE, such as stage=student")
    return name, value


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers, such as 6,9,12") from None
