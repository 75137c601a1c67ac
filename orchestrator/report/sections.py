"""Pieces of a report that every rendering shows alike: a title, some paragraphs, tables of text, figures by name.

What a report says beyond the comparison (expectations, costs, causes, deviations from the locked design) is made as
sections once; Markdown, HTML and LaTeX render them without knowing what they are about.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Grid(BaseModel):
    """A table of text; `rules` are the rows before which a new group begins, `text_columns` are left-aligned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    header: list[str]
    rows: list[list[str]]
    text_columns: int = 1
    rules: list[int] = []
    caption: str = ""


class Section(BaseModel):
    """One section: `name` is its anchor (lower case, hyphens), `figures` name figures of the report, by file stem."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    paragraphs: list[str] = []
    grids: list[Grid] = []
    figures: list[str] = []
