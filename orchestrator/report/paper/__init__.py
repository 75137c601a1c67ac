"""The paper pack: what a manuscript needs of a study, made from its records.

methods.tex      a paragraph with the study's real settings and sizes
captions.tex     a macro for each figure's caption
tables.tex       the report's tables, with booktabs
numbers.tex      a macro for every number of the comparison, its interval and its n
numbers.csv      each macro's value, the column of results.csv it is computed from, and the runs
references.bib   the methods that were used
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.durable import write_atomically
from orchestrator.report.document import Document
from orchestrator.report.material import Material
from orchestrator.report.paper import latex, methods, numbers
from orchestrator.report.paper.library import Reference

__all__ = ["write"]


def write(material: Material, document: Document, references: Sequence[Reference], folder: Path) -> None:
    """Write the pack into `folder`; what an earlier one left there goes."""
    folder.mkdir(parents=True, exist_ok=True)
    found = numbers.trace(material)
    texts = {
        "methods.tex": methods.paragraph(material, references),
        "captions.tex": latex.captions(material.summary),
        "tables.tex": latex.tables(document),
        "numbers.tex": numbers.as_tex(material.summary, found),
        "numbers.csv": numbers.as_csv(found),
        "references.bib": "\n".join(reference.bibtex for reference in references),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text, durable=False)
