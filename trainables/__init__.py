"""The trainables: one module each, found by its name."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

from trainables.base import InputError, Trainable

NOT_TRAINABLES = {"__init__", "base"}


@functools.cache
def names() -> list[str]:
    """Return the names of the built-in trainables: the modules of this folder that define `TRAINABLE`."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(f.stem for f in files if f.stem not in NOT_TRAINABLES and "\nTRAINABLE = " in f.read_text())


@functools.cache
def find(name: str) -> Trainable:
    """Return a trainable by its name; a dotted name is a module of the user's own that defines `TRAINABLE`."""
    module = name if "." in name else f"trainables.{name}"
    if "." not in name and name not in names():
        raise InputError(f"no trainable named {name!r}. Known: {', '.join(names())}")
    try:
        trainable = importlib.import_module(module).TRAINABLE
    except ModuleNotFoundError as error:
        raise InputError(f"no module {error.name!r} for the trainable {name!r}: is its folder on PYTHONPATH?") from None
    except AttributeError:
        raise InputError(f"module {module!r} defines no TRAINABLE") from None
    if not isinstance(trainable, Trainable):
        raise InputError(f"{module}.TRAINABLE is a {type(trainable).__name__}, not a trainables.base.Trainable")
    return trainable
