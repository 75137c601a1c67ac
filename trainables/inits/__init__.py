"""How an adapter starts: one file per init, found by its name.

`trainables/inits/NAME.py` defines `INIT = Init(...)`. Planning reads these files without torch, so their heavy
imports live inside functions.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.base import Context, InputError


@dataclass(frozen=True)
class Init:
    """A way to start an adapter.

    name       the file's name, as `student.init` gives it
    label      what tables and figures call it
    reference  where it is from: a paper, a library's documentation
    needs      inputs that it reads beside the base model and the data: () or ("svd_export",)
    start      start(model, config, context) sets the adapter of a PeftModel, in place; it was created with
               PEFT's default under the run's seed. Raises InputError if an input does not fit the adapter
    """

    name: str
    label: str
    reference: str
    needs: tuple[str, ...]
    start: Callable[[Any, Any, Context], None]


@functools.cache
def names() -> list[str]:
    """Return the names of the inits: the modules of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


@functools.cache
def find(name: str) -> Init:
    """Return an init by its name; raises InputError with what there is."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"no init named {name!r}.{hint} Known: {', '.join(names())}.")
    init: Init = importlib.import_module(f"trainables.inits.{name}").INIT
    return init
