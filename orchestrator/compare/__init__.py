"""Any table of runs, judged by the same statistics as a study's own.

    request.py      what is asked: columns, baseline, direction, target, margin, looks
    sources.py      CSV, JSON lines or an MLflow experiment -> rows
    runs.py         rows -> one outcome per run: repeats, curves, duplicated steps, runs that diverged
    pairing.py      outcomes -> paired differences by replicate, steps to target
    judge.py        paired differences -> adjusted p, verdicts
    dependence.py   does the difference depend on the rank; exploratory
    show.py         the answer as a table for people and as JSON for programs

Neither pandas nor scipy is loaded where six pairs or more are compared at their last value.
"""

from __future__ import annotations

from orchestrator.compare.judge import Answer, judge
from orchestrator.compare.request import Request
from orchestrator.compare.runs import gather
from orchestrator.compare.sources import read

__all__ = ["Answer", "Request", "compare"]


def compare(request: Request) -> Answer:
    """Return what the table of `request` says; raises UserError, one line, where it cannot be asked that."""
    return judge(request, gather(request, read(request)))
