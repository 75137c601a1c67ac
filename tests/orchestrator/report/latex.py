r"""A strict reader of the LaTeX that reports write, for machines without one.

It knows groups, environments, mathematics, comments and tables, and only the commands that a report may use; whatever
else LaTeX would stumble on is refused with the place where it stands.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

KNOWN = {
    *(
        "newcommand",
        "begin",
        "end",
        "centering",
        "small",
        "caption",
        "label",
        "resizebox",
        "linewidth",
        "cite",
        "texttt",
    ),
    *("toprule", "midrule", "bottomrule", "ensuremath", "pm", "infty", "alpha", "sqrt", "times", "Delta", "sigma"),
    *(
        "Vert",
        "leq",
        "geq",
        "approx",
        "surd",
        "beta",
        "rightarrow",
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "ldots",
        "url",
    ),
}
SYMBOLS = set("%&_#{}$,\\")
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\\\n|%[^\n]*\n?|[^\\%]", re.DOTALL)
MATHS = re.compile(r"\\ensuremath$")
TABULAR = re.compile(r"\\begin\{tabular\}\{((?:[lr]|p\{[0-9.]+\\linewidth\})+)\}(.*?)\\end\{tabular\}", re.DOTALL)


@dataclass
class Read:
    """What was found: macros with their bodies, citations, labels, and tables as (columns, rows of cell counts)."""

    macros: dict[str, str] = field(default_factory=dict)
    citations: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    tables: list[tuple[int, list[int]]] = field(default_factory=list)
    commands: set[str] = field(default_factory=set)


def read(text: str, macros: set[str] = frozenset()) -> Read:
    """Return what the text holds; raises AssertionError where LaTeX would fail. `macros` are defined elsewhere."""
    found = Read()
    _structure(text, found, macros)
    for name, body in re.findall(r"\\newcommand\{\\([^}]*)\}\{(.*)\}\n", text):
        assert re.fullmatch("[A-Za-z]+", name), f"macro {name!r} is not letters only"
        assert name not in found.macros, f"macro {name} twice"
        found.macros[name] = body
    assert text.count("\\newcommand") == len(found.macros)
    found.citations = [key for keys in re.findall(r"\\cite\{([^}]*)\}", text) for key in keys.split(",")]
    found.labels = re.findall(r"\\label\{([^}]*)\}", text)
    assert len(set(found.labels)) == len(found.labels), "a label twice"
    found.tables = [_table(*match) for match in TABULAR.findall(text)]
    assert len(found.tables) == text.count("\\begin{tabular}"), "columns that nobody can read"
    return found


def _structure(text: str, found: Read, macros: set[str]) -> None:
    stack: list[str] = []
    previous, is_dollar = "", False
    for token in TOKEN.findall(text):
        where = f"near {text[max(0, text.find(token) - 20) :][:40]!r}"
        if token.startswith("\\"):
            _command(token[1:], found, macros, where)
        elif token == "{":
            is_maths = bool(MATHS.search(previous)) or (bool(stack) and stack[-1] == "maths")
            stack.append("maths" if is_maths else "group")
        elif token == "}":
            assert stack, f"a brace too many {where}"
            stack.pop()
        elif token == "$":
            is_dollar = not is_dollar
        elif token in "_^":
            in_label = re.search(r"\\(label|cite|begin|end|newcommand|url)$", previous)
            assert is_dollar or (stack and stack[-1] == "maths") or in_label, f"bare {token} {where}"
        elif token == "#":
            raise AssertionError(f"bare # {where}")
        elif not token.startswith("%"):
            assert token.isprintable() or token == "\n", f"control character {token!r}"
            is_latin = token.isalpha() and unicodedata.name(token).startswith("LATIN")
            assert token.isascii() or is_latin, f"{token!r} needs a symbol of LaTeX {where}"
        previous = token if token != "{" else previous
    assert not stack, f"{len(stack)} braces are left open"
    assert not is_dollar, "mathematics left open"
    begun = re.findall(r"\\begin\{(\w+)\}", text)
    assert sorted(begun) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    outside = re.sub(r"\\begin\{tabular\}.*?\\end\{tabular\}", "", text, flags=re.S)
    assert not re.search(r"(?<!\\)&", re.sub(r"(?<!\\)%[^\n]*", "", outside)), "& outside a table"


def _command(name: str, found: Read, macros: set[str], where: str) -> None:
    if name.isalpha():
        if name not in macros and name not in KNOWN:
            assert re.search(r"[a-z]", name), where
            found.commands.add(name)
    else:
        assert name in SYMBOLS or name == "\n", f"unknown \\{name} {where}"


def _table(columns: str, body: str) -> tuple[int, list[int]]:
    columns = re.sub(r"p\{[^}]*\}", "p", columns)
    rows = [row for row in re.split(r"\\\\", body) if re.sub(r"\\(top|mid|bottom)rule|\s|%", "", row)]
    counts = [len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows]
    assert set(counts) <= {len(columns)}, f"rows of {sorted(set(counts))} cells in a table of {len(columns)} columns"
    return len(columns), counts


def undefined(found: Read) -> set[str]:
    """Return the commands that are neither LaTeX's, as far as reports use it, nor defined in the text."""
    return found.commands - set(found.macros)


def entries(bibtex: str) -> dict[str, dict[str, str]]:
    """Return a .bib's entries by key; raises AssertionError for one that BibTeX would not read."""
    found: dict[str, dict[str, str]] = {}
    for kind, key, body in re.findall(r"@(\w+)\{([^,]+),\n(.*?)\n\}\n", bibtex, re.S):
        assert re.fullmatch(r"[A-Za-z0-9]+", key)
        assert key not in found
        assert kind in ("article", "book", "inproceedings", "misc")
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, re.M))
        assert len(fields) == body.count("\n") + 1
        for value in fields.values():
            assert value.count("{") == value.count("}")
        found[key] = fields
    assert bibtex.count("@") == len(found)
    return found
