"""Numbers and names as a reader wants them: no digit that says nothing, no name that breaks the line."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Context

WIDTH = 110
"""Columns of a terminal that a line may take."""
LONGEST_NAME = 24
"""Characters of a type's name that a table shows; names of layers get what is left of the line."""


def percent(share: float) -> str:
    """Return a share in per cent with one decimal at most."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if share else "0 %"


def short(count: int) -> str:
    """Return a number of parameters in thousands or millions, to three digits."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:#.3g}".rstrip(".") + f" {unit}"
    return str(count)


def shorten(name: str, width: int) -> str:
    """Return a name cut in its middle if it is longer than `width`: both ends of a module's name tell something."""
    if len(name) <= width:
        return name
    tail = (width - 3) * 2 // 3
    return f"{name[: width - 3 - tail]}...{name[-tail:]}"


def two_digits(value: float) -> str:
    """Return a number with two significant digits, zeros kept."""
    return f"{value:#.2g}".rstrip(".") if value else "0"


def rounded_up(value: float) -> str:
    """Return a bound with one significant digit, rounded up so that it stays one."""
    return f"{float(Context(prec=1, rounding=ROUND_CEILING).create_decimal_from_float(value)):.1g}"


def counted(things: Sequence[object], noun: str) -> str:
    """Return "1 layer" or "2 layers"."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def times(ratio: float) -> str:
    """Return a ratio to two digits."""
    return f"{ratio:,.2g} times" if ratio < 100 else f"{float(f'{ratio:.2g}'):,.0f} times"


def fitted(start: str, names: Sequence[str], width: int = WIDTH) -> str:
    """Return `start` and as many names as the line has room for; the first is cut if need be, the rest counted."""
    room = width - len(start)
    shown: list[str] = []
    for index, name in enumerate(names):
        left = len(names) - index - 1
        ending = f" and {left} more" if left else ""
        taken = len(", ".join([*shown, ""]))
        if shown and taken + len(name) + len(ending) > room:
            break
        shown.append(shorten(name, max(LONGEST_NAME, room - len(f" and {left} more"))))
    rest = len(names) - len(shown)
    return f"{start}{', '.join(shown)}{f' and {rest} more' if rest else ''}"
