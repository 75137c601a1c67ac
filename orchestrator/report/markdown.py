"""Sections of a report as Markdown, whatever they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.report import tables
from orchestrator.report.sections import Grid, Section
from orchestrator.report.summary import Difference


def sections(found: Sequence[Section], figures: Mapping[str, str]) -> str:
    """Return every section with its heading; figures that it names stand at its end."""
    return "\n".join(_section(section, figures) for section in found)


def _section(section: Section, figures: Mapping[str, str]) -> str:
    parts = [f"## {section.title}", *section.paragraphs, *(_grid(grid) for grid in section.grids)]
    parts += [_figure(name, figures[name]) for name in section.figures if name in figures]
    return "\n\n".join(parts) + "\n"


def _figure(name: str, caption: str) -> str:
    return f"![{caption}](figures/{name}.png)\n\n{caption} Numbers: [figures/{name}.csv](figures/{name}.csv)"


def _grid(grid: Grid) -> str:
    table = tables.markdown(grid)
    return f"{table}\n\n{grid.caption}" if grid.caption else table


def verdicts(differences: Sequence[Difference]) -> str:
    """Return the verdicts as a list; what would decide is said once for all that it would decide."""
    lines = [f"- {item.sentence}" for item in differences]
    for command, why in dict.fromkeys((item.decide, item.decide_why) for item in differences if item.decide_why):
        lines.append(f"- To decide: `{command}` ({why})" if command else f"- Not decided by any sweep: {why}")
    return "\n".join(lines)
