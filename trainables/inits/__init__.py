"""How an adapter starts: one file per init, found by its name.

`trainables/inits/NAME.py` defines `INIT = Init(...)`. Planning reads these files without torch, so their heavy
imports live inside functions. What several of them share is in `parts/`.

    start               inits
    base                random, subspace_only, svd_subtracted, pissa
    truncated teacher   svd, svd_balanced; of another teacher: wrong_teacher; of a LoRA: lora_squeeze
    neither             spectrum_random
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
    needs      roles of the inputs that it reads beside the base model and the data; the run's identity has them
    start      start(model, config, context) sets the adapter of a PeftModel, in place; it was created with
               PEFT's default under the run's seed. The base weights are as they were afterwards. Raises InputError
               if an input does not fit the adapter, RuntimeError if a weight is an empty shard (DeepSpeed's ZeRO-3)
               or if there is no LoRA layer
    is_subtracted  true where the start is subtracted from the base again: as many numbers as the adapter has are
                   kept frozen beside it (`parts/subtraction.py`)
    """

    name: str
    label: str
    reference: str
    needs: tuple[str, ...]
    start: Callable[[Any, Any, Context], None]
    is_subtracted: bool = False


@functools.cache
def names() -> list[str]:
    """Return the names of the inits: the modules of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


@functools.cache
def roles() -> tuple[str, ...]:
    """Return the roles of all inputs that some init reads."""
    return tuple(dict.fromkeys(role for name in names() for role in find(name).needs))


@functools.cache
def find(name: str) -> Init:
    """Return an init by its name; raises InputError with what there is."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"no init named {name!r}.{hint} Known: {', '.join(names())}.")
    init: Init = importlib.import_module(f"trainables.inits.{name}").INIT
    return init
