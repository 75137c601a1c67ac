"""What differs from the design that was locked before the data (orchestrator.preregistration)."""

from __future__ import annotations

from orchestrator import preregistration
from orchestrator.preregistration import Locked
from orchestrator.report.claims.basis import Basis
from orchestrator.report.sections import Section


def section(basis: Basis) -> Section | None:
    """Return the deviations, or that there are none, or that nothing was locked."""
    now = preregistration.describe(basis.plan, basis.store)
    if now is None:
        return None
    locked = preregistration.read(basis.store, basis.plan.study.name)
    return Section(name="deviations", title="Deviations from the locked design", paragraphs=_told(locked, now, basis))


def _told(locked: Locked | None, now: Locked, basis: Basis) -> list[str]:
    if locked is None:
        return [f"No design was locked: `python -m orchestrator plan {now.study} --lock` does so before a sweep."]
    found = [*preregistration.differences(locked, now), *_losses(basis)]
    first = f"As {locked.when}." if not found else f"The design was {locked.when}; {len(found)} deviations:"
    if len(found) == 1:
        first = first.replace("1 deviations", "1 deviation")
    return [first, *(f"{text[0].upper()}{text[1:]}." for text in found), *_code(locked, basis)]


def _losses(basis: Basis) -> list[str]:
    """Return a line where replicates were lost, so that p was adjusted otherwise than the design says."""
    for item in basis.judged.differences:
        if item.adjusted_by is not None and item.p_adjusted is not None and item.adjusted_by != basis.judged.method:
            return [f"p adjusted by {item.adjusted_by} instead of {basis.judged.method}: lost runs, or an early look"]
    return []


def _code(locked: Locked, basis: Basis) -> list[str]:
    """Return a line on code that was changed in between; it changes no claim by itself."""
    used = sorted({record.provenance.git for record in basis.records.values() if record.provenance.git})
    others = [commit for commit in used if commit != locked.commit]
    if not locked.commit or not others:
        return []
    return [f"Locked with code {locked.commit}; runs used {', '.join(others)}."]
