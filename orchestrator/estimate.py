"""What a plan will cost: seconds from earlier records where there are any, else the trainables' own guesses.

What it takes of memory and disk is another question: `orchestrator.memory`.
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.plan import Run
from orchestrator.store import Store

GIB = 2**30
SAMPLE = 50
"""Records per stage that an estimate looks at."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of wall time and of cores."""

    seconds: float
    core_seconds: float
    from_records: bool


def costed(runs: Iterable[Run], seconds: Mapping[str, float]) -> list[Run]:
    """Return the runs with `cost_s` as runs of their stage had it, where that is known, else as guessed."""
    return [replace(run, cost_s=seconds.get(run.stage, run.cost_s / max(run.place.cpus, 1))) for run in runs]


def estimate(missing: Iterable[Run], store: Store, *, cpus: float) -> Estimate:
    """Return what the missing runs cost on `cpus` cores: at least the critical path, at least the work."""
    missing = list(missing)
    seconds = seconds_by_stage(store, {run.stage for run in missing})
    runs = costed(missing, seconds)
    work = sum(run.cost_s * run.place.cpus * run.place.workers for run in runs)
    wall_s = max(critical_path_s(runs), work / max(cpus, 1))
    return Estimate(wall_s, work, bool(seconds))


def critical_path_s(runs: Iterable[Run]) -> float:
    """Return the longest chain of costs through `runs` (in dependency order)."""
    ends: dict[str, float] = {}
    for run in runs:
        ends[run.id] = run.cost_s + max((ends.get(source, 0.0) for source in run.inputs.values()), default=0.0)
    return max(ends.values(), default=0.0)


def refuse_full_disk(folder: Path, needed_gib: float | None, *, reserve_gib: float = 0.5) -> None:
    """Raise UserError if the disk of `folder` cannot hold what the runs will write."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    needed = (needed_gib or 0) + reserve_gib
    if free < needed:
        raise UserError(
            f"the disk of {folder} has {free:.1f} GiB free and the runs need about {needed:.1f}; "
            "choose another with --store DIR, or make room with: store gc"
        )


def available_cpus() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def seconds_by_stage(store: Store, stages: set[str]) -> Mapping[str, float]:
    """Return the median wall time of the runs in the store, for those of the stages that have any."""
    ids: dict[str, list[str]] = {}
    for run_id in store.ids():
        ids.setdefault(run_id.rpartition("-")[0], []).append(run_id)
    found = {}
    for stage in stages & set(ids):
        records = store.records(ids[stage][-SAMPLE:]).values()
        seconds = [record.provenance.seconds for record in records if record.status == "done"]
        if seconds:
            found[stage] = statistics.median(seconds)
    return found
