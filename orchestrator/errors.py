"""What a user can do wrong.

    InputError (trainables.base)      what was given cannot be used
    └── UserError                     a mistake at the command line or in a study; one line, exit code 2
        ├── UnknownName               did you mean ...? Known: ...
        ├── StoreError                a store that cannot be read, written or locked
        └── InfeasibleError           no node can ever hold this run

Every other exception is ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from trainables.base import InputError

__all__ = ["InfeasibleError", "InputError", "StoreError", "UnknownName", "UserError"]


class UserError(InputError):
    """A mistake at the command line or in a study; the message is one line and names the way out."""


class UnknownName(UserError):
    """A name that nothing has, with the nearest known one."""

    def __init__(self, said: str, known: Iterable[str] = (), given: str = "", label: str = "Known") -> None:
        """Say `said` ("no study named 'x'"), what is near `given`, and what there is."""
        names = sorted(set(known))
        near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"{said}.{hint} {label}: {', '.join(names) or 'none'}.")
        self.arguments = (said, tuple(names), given, label)

    def __reduce__(self) -> tuple[type[UnknownName], tuple[object, ...]]:
        """Survive pickling: the message is made from the arguments."""
        return type(self), self.arguments


class StoreError(UserError):
    """A store that cannot be read, written or locked."""


class InfeasibleError(UserError):
    """No node of the cluster can ever hold this run."""
