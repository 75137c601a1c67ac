"""How an answer is judged right: one file per task, found by its file name.

To add one, put `TASK = Task(...)` into `trainables/tasks/NAME.py`; the contract test finds it.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from trainables.base import InputError

Checker: TypeAlias = Callable[[str, str, Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Task:
    """A way to judge answers.

    check      of the model's text, the reference and the item's metadata: is it right? None: there is no right answer
    is_answer  whether a text could be a reference of this task, so that a dataset can choose its task by itself
    """

    name: str
    label: str
    check: Checker | None
    is_answer: Callable[[str], bool] = lambda reference: False


@functools.cache
def names() -> list[str]:
    """Return the names of all tasks: the modules of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


@functools.cache
def find(name: str) -> Task:
    """Return a task by its name; raises InputError with the nearest known name."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"no task named {name!r}.{hint} Known: {', '.join(names())}")
    task = importlib.import_module(f"trainables.tasks.{name}").TASK
    assert isinstance(task, Task), f"trainables/tasks/{name}.py: TASK is not a Task"
    return task
