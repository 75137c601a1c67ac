"""How well four GPUs are used: sleeping runs of mixed sizes, some dependent, through real Tune.

The records' own times are analysed. At each moment the idle GPUs are of one of three kinds: `unusable`, no ready run
is small enough; `held`, for a larger ready run with a longer remaining path, which cannot start yet; `late`, the
first ready run fits and has not started. The last is no decision of the schedule: it is what Tune and Ray need to
start a worker, some 0.01 s for a warm one and seconds for a cold one, which every change of size costs. So beside the
makespan stands the one that the same schedule reaches in a simulation where starting takes no time.

    python -m pytest tests/benchmarks/test_makespan.py -n 0 -m benchmark -s
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from cluster.rooms import Demand
from cluster.schedule import Task, remaining_paths
from orchestrator.plan import Run
from orchestrator.store import Store
from tests.cluster.bound import lower_bound_s
from tests.cluster.conftest import Memory
from tests.cluster.test_schedule import Simulation
from tests.fakes import make_run
from trainables.base import Place

GPUS = 4
CPUS = 0.5
"""Of each run: they only sleep, and Ray starts a process at once for every CPU that it is told of."""
NODE = {"node": {"GPU": float(GPUS)}}


def mixed_runs(count: int, shortest_s: float, longest_s: float, seed: int = 0) -> list[Run]:
    """Return sleeping runs of 1, 2 and 4 GPUs; every third needs one or two earlier ones."""
    chance = random.Random(seed)
    runs: list[Run] = []
    for index in range(count):
        needs = chance.sample(runs, min(len(runs), chance.choice([1, 2]))) if index % 3 == 2 else []
        gpus = chance.choices([1, 2, 4], weights=[60, 25, 15])[0]
        seconds = round(chance.uniform(shortest_s, longest_s), 2)
        place = Place(gpus=gpus, cpus=CPUS)
        runs.append(make_run("sleep", *needs, seed=index, seconds=seconds, place=place, cost_s=seconds * CPUS))
    return runs


@dataclass(frozen=True)
class Span:
    """When a run was ready, started and finished, in seconds since the first start."""

    run: Run
    ready_s: float
    start_s: float
    end_s: float
    path_s: float

    @property
    def gpus(self) -> float:
        return self.run.place.gpus


@dataclass(frozen=True)
class Analysis:
    """What the records say: idle GPU-seconds by kind, the longest stretch of `late`, the makespan and its bound.

    `first_in_line_s` says, by run, how long it was the ready one with the longest remaining path and did not start.
    """

    spans: tuple[Span, ...]
    makespan_s: float
    simulated_s: float
    bound_s: dict[str, float]
    idle: dict[str, float]
    longest_late_s: float
    first_in_line_s: dict[str, float]

    @property
    def ratio(self) -> float:
        return self.makespan_s / max(self.bound_s.values())

    @property
    def simulated_ratio(self) -> float:
        return self.simulated_s / max(self.bound_s.values())

    def __str__(self) -> str:
        wait = max(self.first_in_line_s.get(span.run.id, 0.0) for span in self.spans if span.gpus == GPUS)
        idle = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in self.idle.items())
        bounds = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.bound_s.items())
        return (
            f"{len(self.spans)} runs on {GPUS} GPUs: makespan {self.makespan_s:.1f} s, {self.ratio:.3f} x the bound "
            f"({bounds}), {self.simulated_ratio:.3f} x if starting took no time; "
            f"idle GPU-seconds: {idle}; longest time that a fitting first run waited "
            f"{self.longest_late_s:.2f} s; longest wait of a 4-GPU run once first in line {wait:.1f} s"
        )


def analysed(runs: Sequence[Run], store: Store) -> Analysis:
    """Return what the records in the store say of the sweep."""
    spans = list(spans_of(runs, store))
    tasks = tasks_of(runs)
    idle, late, longest = {"unusable": 0.0, "held": 0.0, "late": 0.0}, 0.0, 0.0
    first: dict[str, float] = {}
    moments = sorted({moment for span in spans for moment in (span.start_s, span.end_s)})
    for begin, end in itertools.pairwise(moments):
        free = GPUS - sum(span.gpus for span in spans if span.start_s <= begin < span.end_s)
        ready = sorted((s for s in spans if s.ready_s <= begin < s.start_s), key=lambda span: -span.path_s)
        if ready:
            first[ready[0].run.id] = first.get(ready[0].run.id, 0.0) + end - begin
        if not any(span.gpus <= free for span in ready):
            kind = "unusable"
        else:
            kind = "late" if ready[0].gpus <= free else "held"
        idle[kind] += free * (end - begin)
        late = late + end - begin if kind == "late" else 0.0
        longest = max(longest, late)
    bound = {name: seconds for name, seconds in lower_bound_s(tasks, NODE) if seconds}
    simulated_s = Simulation(tasks_of(runs), NODE).run()
    return Analysis(tuple(spans), moments[-1] - moments[0], simulated_s, bound, idle, longest, first)


def tasks_of(runs: Sequence[Run]) -> list[Task]:
    """Return the runs as the schedule sees them, without their CPUs: there are enough."""
    return [
        Task(run.id, tuple(run.inputs.values()), Demand({"GPU": run.place.gpus}), run.cost_s / CPUS) for run in runs
    ]


def spans_of(runs: Sequence[Run], store: Store) -> Iterator[Span]:
    records = store.records(run.id for run in runs)
    times = {
        run_id: [datetime.fromisoformat(text).timestamp() for text in (p.started, p.finished)]
        for run_id, p in ((run_id, record.provenance) for run_id, record in records.items())
    }
    zero = min(start for start, _ in times.values())
    paths = remaining_paths(tasks_of(runs))
    for run in runs:
        start, end = times[run.id]
        ready = max((times[need][1] for need in run.inputs.values()), default=zero)
        yield Span(run, ready - zero, start - zero, end - zero, paths[run.id])


def sweep(runs: Sequence[Run], folder: Path) -> Analysis:
    from cluster.tune import TuneBackend

    backend, store, memory = TuneBackend(num_cpus=2, num_gpus=GPUS), Store(folder / "runs"), Memory()
    try:
        backend.run(runs, store, memory)
    finally:
        backend.close()
    assert memory.statuses(runs) == ["done"] * len(runs)
    return analysed(runs, store)


def check(found: Analysis) -> None:
    """Assert what must hold however slow the machine is."""
    for moment in (span.start_s for span in found.spans):
        assert sum(span.gpus for span in found.spans if span.start_s <= moment < span.end_s) <= GPUS
    assert all(span.ready_s <= span.start_s for span in found.spans)
    assert found.ratio >= 1
    longest_run_s = max(span.end_s - span.start_s for span in found.spans)
    gangs = [span for span in found.spans if span.gpus == GPUS]
    assert gangs, "the layout is pointless without any"
    for gang in gangs:  # first in line, it waits for what runs already, and for a worker; a slow machine takes its time
        assert found.first_in_line_s.get(gang.run.id, 0.0) <= longest_run_s + 30


@pytest.mark.slow
def test_four_gpus_serve_runs_of_mixed_sizes_without_overlap_or_starvation(tmp_path: Path) -> None:
    found = sweep(mixed_runs(9, 0.2, 0.8, seed=3), tmp_path)
    check(found)
    assert found.longest_late_s < 20, "a free GPU waits for a worker to start, not for the end of another run"


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("count", "shortest_s", "longest_s"), [(60, 5.0, 20.0), (200, 2.0, 8.0)])
def test_makespan_on_four_gpus(tmp_path: Path, count: int, shortest_s: float, longest_s: float) -> None:
    found = sweep(mixed_runs(count, shortest_s, longest_s), tmp_path)
    check(found)
    print(f"\n{found}")
