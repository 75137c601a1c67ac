"""Options that several verbs share, and what they stand for: a study with its changes, a store, a plan."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from search_spaces.scales import SCALES

if TYPE_CHECKING:
    from orchestrator.plan import Plan
    from orchestrator.search.ledger import Ledger
    from orchestrator.store import Store

DEFAULT_STORE = "./runs"
UNBROKEN = 10_000
"""Characters of a line where nobody says how wide the screen is; COLUMNS does."""


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add `--store` and `--views`."""
    group = parser.add_argument_group("store")
    group.add_argument("--store", metavar="DIR", default=DEFAULT_STORE, help="where runs are kept (default: ./runs)")
    group.add_argument(
        "--views",
        metavar="DIR",
        help="keep mlflow.db and optuna.journal here instead: a local disk when the store is on NFS or Lustre",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON for a program to read")


def add_oversubscribe(parser: argparse.ArgumentParser) -> None:
    """Add `--oversubscribe`."""
    parser.add_argument(
        "--oversubscribe",
        action="store_true",
        help="go on where the estimate says that a run cannot fit into memory (see plan), instead of refusing",
    )


def add_study(parser: argparse.ArgumentParser, *, optional: bool = False, why: str = "") -> None:
    """Add the study argument and the options that change it; `why` says what an optional study is for."""
    about = "a study's name, or the path of your own .py" + why
    parser.add_argument("study", nargs="?" if optional else None, help=about)
    group = parser.add_argument_group("the study")
    group.add_argument("--scale", metavar="NAME", help=f"a named size: {', '.join(SCALES)}")
    group.add_argument(
        "--set",
        metavar="STAGE.SETTING=VALUE",
        dest="settings",
        action="append",
        default=[],
        help="change a setting, such as student.steps=40 or dataset.source=train.json (repeatable)",
    )
    group.add_argument(
        "--axis",
        metavar="STAGE.SETTING=A,B,C",
        dest="axes",
        action="append",
        default=[],
        help="vary a setting over these values, such as student.rank=4,8,16 or student.seed=1..12 (repeatable)",
    )
    group.add_argument(
        "--place",
        metavar="STAGE.SETTING=VALUE",
        dest="places",
        action="append",
        default=[],
        help="where and how a stage executes, such as teacher.workers=2 or student.gpus=0.5; never changes a run's id",
    )
    group.add_argument(
        "--teacher",
        metavar="PATH|HUB",
        help="use this checkpoint (a folder of safetensors or a hub id) as the teacher; nothing is trained for it",
    )
    group.add_argument(
        "--tuning-seeds",
        metavar="N",
        type=int,
        help="choose selected settings by tuning runs on up to N seeds (see plan); decide on it before any verdict",
    )
    group.add_argument("--points", metavar="N", type=int, help="of a search: try this many points of its space in all")
    group.add_argument(
        "--prune",
        choices=["asha", "median", "none"],
        help="of a search: stop runs early by their held-out loss, each among those of its own arm only",
    )
    group.add_argument("--until", metavar="STAGE", help="leave out what comes after this stage")


def add_tensorboard(parser: argparse.ArgumentParser) -> None:
    """Add `--tensorboard`."""
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write TensorBoard's event files, one folder per run below STORE/tensorboard/STUDY",
    )


def sync_command(options: argparse.Namespace) -> str:
    """Return the command that brings the views of this study in this store up to date, as a shell takes it."""
    return command_of(options, "store", "sync")


def command_of(options: argparse.Namespace, *verb: str) -> str:
    """Return the command of this verb for the study and the store that the options name, as a shell takes it."""
    parser = argparse.ArgumentParser(add_help=False)
    add_study(parser)
    add_store(parser)
    words = [word for action in parser._actions for word in _given(action, getattr(options, action.dest))]
    return shlex.join(["python", "-m", "orchestrator", *verb, *words])


def _given(action: argparse.Action, value: Any) -> list[str]:
    """Return the words that give an option this value; none for its default."""
    if value == action.default:
        return []
    if not action.option_strings:
        return [str(value)]
    flag = action.option_strings[0]
    if action.nargs == 0:
        return [flag]
    return [word for one in (value if isinstance(value, list) else [value]) for word in (flag, str(one))]


def open_store(options: argparse.Namespace) -> Store:
    """Return the store that `--store` names."""
    from orchestrator.errors import StoreError
    from orchestrator.store import Store

    root = Path(options.store).expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise StoreError(f"the store {root} is a file; name a folder with --store DIR")
    return Store(root)


def existing_store(options: argparse.Namespace) -> Store:
    """Return the store that `--store` names; raises StoreError if there is none."""
    from orchestrator.errors import StoreError

    store = open_store(options)
    if not store.root.is_dir():
        raise StoreError(f"no store at {store.root}; name one with --store DIR")
    return store


def views_folder(options: argparse.Namespace, store: Store) -> Path:
    """Return the folder of mlflow.db and optuna.journal."""
    return Path(options.views).expanduser().absolute() if options.views else store.root


def make_plan(options: argparse.Namespace, store: Store) -> Plan:
    """Return the plan of the study that the options describe, as the store's records have it."""
    return make_planning(options, store)()


def make_planning(options: argparse.Namespace, store: Store) -> Callable[[], Plan]:
    """Return what plans the study that the options describe, again and again while records come in."""
    return make_search(options, store)[0]


def make_search(options: argparse.Namespace, store: Store) -> tuple[Callable[[], Plan], Ledger | None]:
    """Return what plans the study, and the points that it has asked for, if it is a search."""
    from orchestrator.changes import Changes
    from orchestrator.fingerprints import FilePlanner
    from orchestrator.planning import Planning
    from orchestrator.search.ledger import Ledger
    from orchestrator.studies import load

    changes = Changes(
        tuple(options.settings),
        tuple(options.axes),
        tuple(options.places),
        options.teacher,
        options.scale,
        options.tuning_seeds,
        options.points,
        options.prune,
    )
    planner = FilePlanner(store)
    planning = Planning(load(options.study, changes), planner, until=options.until)
    ledger = Ledger(planning, store) if planning.study.search is not None else None

    def plan() -> Plan:
        made = planning(store.record, ledger.asked() if ledger else ())
        planner.save()
        return made

    return plan, ledger


def console(*, stderr: bool = False) -> Console:
    """Return a console that shows every text as it is, such as "[qkvo]_proj", without markup, emoji and highlights.

    In a pipe or a file it wraps no line that a program may read.
    """
    is_read = not (sys.stderr if stderr else sys.stdout).isatty() and "COLUMNS" not in os.environ
    width = UNBROKEN if is_read else None
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")
