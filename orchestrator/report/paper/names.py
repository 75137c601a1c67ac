r"""Names of LaTeX macros: letters only, so numbers are spelt: \rankStudySvdRankSixteenTestLoss."""

from __future__ import annotations

import re
from collections.abc import Iterable

ONES = (
    *("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"),
    *("Ten", "Eleven", "Twelve", "Thirteen", "Fourteen"),
    *("Fifteen", "Sixteen", "Seventeen", "Eighteen", "Nineteen"),
)
TENS = ("", "", "Twenty", "Thirty", "Forty", "Fifty", "Sixty", "Seventy", "Eighty", "Ninety")
POWERS = ((10**9, "Billion"), (10**6, "Million"), (10**3, "Thousand"), (100, "Hundred"))
TOKEN = re.compile(r"\d+|[A-Za-z]+|[.+−-](?=\d)|−")
SIGNS = {".": "Point", "-": "Minus", "−": "Minus", "+": "Plus"}


def macro(study: str, parts: Iterable[str]) -> str:
    """Return a macro's name, without the backslash: the study's name starts it in lower case."""
    name = spelt(study) or "Study"
    return name[0].lower() + name[1:] + "".join(map(spelt, parts))


def spelt(text: str) -> str:
    """Return text as letters, words capitalised: "rank 16" is RankSixteen, "0.05" ZeroPointZeroFive."""
    words, is_fraction = [], False
    for piece in TOKEN.findall(text):
        if piece.isdigit():
            words += [ONES[int(digit)] for digit in piece] if is_fraction or _is_padded(piece) else [cardinal(piece)]
        else:
            words.append(SIGNS.get(piece) or piece[0].upper() + piece[1:])
        is_fraction = piece == "."
    return "".join(words)


def cardinal(digits: str) -> str:
    """Return a whole number in words; beyond 10^12, its digits."""
    number = int(digits)
    if number >= 10**12:
        return "".join(ONES[int(digit)] for digit in digits)
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (ONES[number % 10] if number % 10 else "")
    size, word = next((size, word) for size, word in POWERS if number >= size)
    rest = number % size
    return cardinal(str(number // size)) + word + (cardinal(str(rest)) if rest else "")


def unique(names: Iterable[str]) -> list[str]:
    """Return the names, those that came before with "Variant" and a number after them."""
    taken: set[str] = set()
    found = []
    for name in names:
        chosen, count = name, 1
        while chosen in taken:
            count += 1
            chosen = f"{name}Variant{cardinal(str(count))}"
        taken.add(chosen)
        found.append(chosen)
    return found


def _is_padded(digits: str) -> bool:
    return len(digits) > 1 and digits[0] == "0"
