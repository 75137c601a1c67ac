from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator import report
from orchestrator.plan import Plan
from orchestrator.report.summary import Summary
from orchestrator.store import Store
from tests.orchestrator.synthetic import filled, rank_study

HOSTILE = '<script>alert(1)</script> & "50 %" of $x_1$ #1 {a} \\input{x} ~ ^ `rm`'


@dataclass(frozen=True)
class Report:
    plan: Plan
    store: Store
    folder: Path
    summary: Summary

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()


def written(folder: Path, study) -> Report:
    _, plan, store = filled(folder, study)
    place = report.report_folder(plan, store)
    return Report(plan, store, place, report.write(plan, store, place, command="python -m orchestrator sweep x"))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Report:
    """A report of a study whose words would break HTML and LaTeX, with runs that failed in such words."""
    fates = {(16, "svd", 3): "oom", (16, "random", 2): "diverged"}
    study = replace(rank_study(ranks=(4, 16), fates=fates), description=HOSTILE, notes=(HOSTILE, "rates: 50 % & more"))
    return written(tmp_path_factory.mktemp("hostile"), study)
