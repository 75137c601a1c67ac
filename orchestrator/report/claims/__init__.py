"""What a report claims beyond the comparison, each kind of claim in a file of its own, as sections.

ranks.py         the smallest rank not inferior to the teacher, and whether the difference depends on the rank
expectations.py  what first users expect, measured, and whether it was met
costs.py         what the target costs, with and without the teacher's share
causes.py        where the init shows no effect: which of the known causes holds
oscillation.py   how much the training loss oscillates
deviations.py    what differs from the design that was locked before the data
decide.py        the exact command that would decide what is not decided
"""

from __future__ import annotations

from orchestrator.report.claims import causes, costs, deviations, expectations, oscillation, ranks
from orchestrator.report.claims.basis import Basis
from orchestrator.report.sections import Section

MAKERS = (causes.section, ranks.section, expectations.section, costs.section, oscillation.section, deviations.section)


def sections(basis: Basis) -> list[Section]:
    """Return the sections that there is something to say in."""
    return [section for make in MAKERS if (section := make(basis)) is not None]
