r"""Answers that are numbers: the last one given, or the one in \boxed{}, compared as exact fractions.

1/2, 0.5, \frac{1}{2} and 50 % are one answer, so are 1,234 and 1234.0, and units, currency signs and words around a
number do not count. What is boxed but no number (an expression) is compared as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from trainables.tasks import Task
from trainables.tasks.exact import normalised

DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
DECIMAL = rf"(?:{DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{{1,3}}(?![\w.]))?"
BEFORE = r"(?<![\w.^])(?<!\^\{)"
"""A number is no part of a name, of a longer number, or an exponent (as in m^2)."""
NUMBER = re.compile(
    rf"(?P<sign>(?<![\w).])[+-]\s?)?{BEFORE}(?:(?P<whole>\d+)\s+(?P<top>\d+)/(?P<bottom>\d+)"
    rf"|(?P<above>{DECIMAL})\s?/\s?(?P<below>{DECIMAL})|(?P<plain>{DECIMAL}))(?P<percent>\s?%)?"
)
MARKERS = ("####", "final answer is", "answer is", "answer:")
WRITTEN = (
    (re.compile(r"\\d?t?frac\s*(\d)\s*(\d)"), r"\1/\2"),
    (re.compile(r"\\d?t?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}"), r"\1/\2"),
    (re.compile(r"\\times\s*10\s*\^\s*\{?\s*([+-]?\d+)\s*\}?"), r"e\1"),
    (re.compile(r"\{,\}|\\[,;!:]|(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))"), ""),
    (
        re.compile(r"\\text\s*\{[^{}]*\}|\\left|\\right|\\%|[$€£]|\\\(|\\\)"),
        lambda match: "%" if match[0] == "\\%" else "",
    ),
    (re.compile(r"(?<=\d)\s+e(?=[+-]?\d)"), "e"),
    (re.compile("[\u2212\u2013]"), "-"),
)


@dataclass(frozen=True)
class Answer:
    """What a text answers: a number, or a boxed text that is none."""

    value: Fraction | None
    is_percent: bool = False
    text: str = ""


def check(given: str, reference: str, metadata: Mapping[str, Any]) -> bool:
    """Say whether both texts answer the same."""
    one, other = answer_of(given), answer_of(reference)
    if one is None or other is None:
        return False
    if one.value is None or other.value is None:
        return one.value is other.value and one.text == other.text
    if one.value == other.value:
        return True
    return one.is_percent != other.is_percent and _share(one) == _share(other)


def _share(answer: Answer) -> Fraction:
    assert answer.value is not None
    return answer.value / 100 if answer.is_percent else answer.value


def answer_of(text: str) -> Answer | None:
    """Return what `text` answers: what is boxed, else what follows "####" or "answer is", else its last number."""
    boxed = _boxed(text)
    if boxed is not None:
        number = _whole(_plain(boxed))
        return number or Answer(None, text=normalised(re.sub(r"\s+", "", boxed)))
    text = _plain(text)
    for marker in MARKERS:
        _, found, after = text.lower().rpartition(marker)
        first = NUMBER.search(text, len(text) - len(after)) if found else None
        if first and _answer(first):
            return _answer(first)
    return next((answer for match in reversed(list(NUMBER.finditer(text))) if (answer := _answer(match))), None)


def is_answer(reference: str) -> bool:
    r"""Say whether a reference is plainly meant as maths: it has a \boxed{} or "####", or is a number with its unit."""
    if _boxed(reference) is not None or "####" in reference:
        return answer_of(reference) is not None
    return _whole(_plain(reference)) is not None


def _boxed(text: str) -> str | None:
    r"""Return the content of the last \boxed{...}, nested braces included."""
    _, found, after = text.rpartition(r"\boxed{")
    if not found:
        return None
    depth = 1
    for index, character in enumerate(after):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return after[:index]
    return None


def _plain(text: str) -> str:
    """Return the text with LaTeX's ways to write numbers made plain, and currency signs dropped."""
    for pattern, plain in WRITTEN:
        text = pattern.sub(plain, text)
    return text


def _whole(text: str) -> Answer | None:
    """Return the number that makes up the whole text, but for a unit behind it and "x =" before it."""
    text = text.strip().rstrip(".")
    text = re.sub(r"^[A-Za-z]\w*\s*=\s*", "", text)
    match = NUMBER.match(text)
    if match is None or not re.fullmatch(r"[\s°]*[A-Za-z²³°/^{}\d\s]{0,20}", text[match.end() :]):
        return None
    if re.match(r"\s*[\d^/{}]", text[match.end() :]):
        return None
    return _answer(match)


def _answer(match: re.Match[str]) -> Answer | None:
    part = match.groupdict()
    try:
        if part["whole"]:
            value = int(part["whole"]) + Fraction(int(part["top"]), int(part["bottom"]))
        elif part["above"]:
            value = _fraction(part["above"]) / _fraction(part["below"])
        else:
            value = _fraction(part["plain"])
    except ZeroDivisionError:
        return None
    negative = (part["sign"] or "").startswith("-")
    return Answer(-value if negative else value, is_percent=bool(part["percent"]))


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


TASK = Task("maths", "the last number, or the boxed one, as a fraction", check, is_answer)
