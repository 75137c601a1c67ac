"""TPE with and without successive halving against an exhaustive grid of the same space, on the tiny model.

Run by hand, about ten minutes: python -m pytest -n 0 -m benchmark -s tests/benchmarks/test_search.py

For each of five seeds (of the students, and of the sampler): the smallest held-out loss at the last step that any whole
run has come to, and the training steps of all runs. The table goes to docs/search.md.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.record import Record
from orchestrator.search.points import curve_of, steps_of
from orchestrator.store import Store

SEEDS = (1, 2, 3, 4, 5)
STEPS, EVERY = 40, 10
POINTS = 20
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)

STUDY = f"""
'''The same space, as a grid or as a search.'''
from dataclasses import replace
from orchestrator.space import Choice, Float, Int, Prune, Search
from orchestrator.study import Study
from search_spaces.scales import SCALES

METHOD, SEED = "@METHOD@", @SEED@

def build(scale):
    stages = SCALES["tiny"].stages()
    stages.pop("evaluate")
    stages["student"] = stages["student"].but({{"steps": {STEPS}, "eval_every": {EVERY}}})
    if METHOD == "grid":
        axes = {{"student.init": ("random", "svd"), "student.rank": (2, 4, 8), "student.learning_rate": {RATES}}}
        return Study("grid", "A grid.", stages, {{**axes, "student.seed": {SEEDS}}}, None, "tiny")
    space = {{
        "student.init": Choice("random", "svd"),
        "student.rank": Int(2, 8, log=True),
        "student.learning_rate": Float({RATES[0]}, {RATES[-1]}, log=True),
    }}
    prune = Prune("asha", first={EVERY}) if METHOD == "asha" else None
    search = Search(space, {POINTS}, seed=SEED, startup=6, arm="student.init", prune=prune)
    return Study(METHOD, "A search.", stages, {{"student.seed": (SEED,)}}, None, "tiny", search=search)
"""


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
def test_tpe_with_successive_halving_against_an_exhaustive_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for method in ("grid", "tpe", "asha"):
        for seed in SEEDS[:1] if method == "grid" else SEEDS:
            Path("study.py").write_text(STUDY.replace("@METHOD@", method).replace("@SEED@", str(seed)))
            assert main(["sweep", "study.py", "--local", "--store", method]) == 0
    measured = {method: _measured(Store(tmp_path / method)) for method in ("grid", "tpe", "asha")}
    print(f"\n{_table(measured)}")
    print(json.dumps(measured))


def _measured(store: Store) -> dict[int, tuple[float, int, int]]:
    """Return by seed the best loss of a whole run, all steps, and how many runs there were."""
    ids = [run_id for run_id in [*store.ids(), *store.failed_ids()] if run_id.startswith("student-")]
    records: list[Record] = [*store.records(ids).values()]
    found = {}
    for seed in SEEDS:
        mine = [record for record in records if record.settings["seed"] == seed]
        whole = [curve_of(record)[STEPS] for record in mine if record.status == "done"]
        found[seed] = (min(whole), sum(map(steps_of, mine)), len(mine))
    return found


def _table(measured: Mapping[str, Mapping[int, tuple[float, int, int]]]) -> str:
    names = {"grid": "grid, 36 cells", "tpe": f"TPE, {POINTS} points", "asha": f"TPE with ASHA, {POINTS} points"}
    titles = ["", "best held-out loss, by seed", "mean", "minus the grid's", "steps, mean", "of the grid's"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    grid = measured["grid"]
    for method, of_seed in measured.items():
        losses = [of_seed[seed][0] for seed in SEEDS]
        steps = statistics.mean(of_seed[seed][1] for seed in SEEDS)
        above = [of_seed[seed][0] - grid[seed][0] for seed in SEEDS]
        share = steps / statistics.mean(grid[seed][1] for seed in SEEDS)
        lines.append(
            f"| {names[method]} | {', '.join(f'{loss:.3f}' for loss in losses)} | {statistics.mean(losses):.3f} | "
            f"{statistics.mean(above):+.3f} ({min(above):+.3f} to {max(above):+.3f}) | {steps:,.0f} | {share:.0%} |"
        )
    return "\n".join(lines)
