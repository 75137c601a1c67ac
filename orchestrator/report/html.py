"""report.html: the whole report in one file that needs no network, to be read, printed or sent.

Everything in it that comes from a study or a record is escaped by jinja2; figures are SVG pictures inside the file.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.report.document import CODE, Document, label, long_columns
from orchestrator.report.material import Written
from orchestrator.report.paper.library import Reference
from orchestrator.report.summary import Difference

TEMPLATES = Path(__file__).parent / "templates"


def render(document: Document, pictures: Mapping[str, Written], references: Sequence[Reference]) -> str:
    """Return the page; `pictures` are the figures by name, `references` the methods' sources."""
    known = {section.name for section in document.sections}
    assert len(known) == len(document.sections), "two sections of one name would share an anchor"
    return str(
        _environment()
        .get_template("report.html.j2")
        .render(document=document, summary=document.summary, pictures=pictures, references=references)
    )


def picture(written: Written) -> str:
    """Return a figure as a data URI."""
    return f"data:image/svg+xml;base64,{base64.b64encode(written.svg).decode()}"


def inline(text: str) -> Any:
    """Return text as HTML: escaped, and what stands between backticks as code."""
    from markupsafe import Markup, escape

    parts = CODE.split(text)
    shown = (Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts))
    return Markup("").join(shown)


def verdict(item: Difference) -> Any:
    """Return a verdict's sentence as HTML, the one word in it as a label."""
    from markupsafe import Markup

    sentence = re.sub(r"\b(p|adjusted|margin of) (?=[\d<p])", "\\1\u00a0", item.sentence)  # no line ends within these
    before, word, after = re.split(f"({re.escape(item.verdict)})", sentence, maxsplit=1, flags=re.IGNORECASE)
    chip = Markup('<span class="chip">{}</span>').format(word)
    return inline(before) + chip + inline(after)


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(inline=inline, label=label, long_columns=long_columns, picture=picture, verdict=verdict)
    return environment
