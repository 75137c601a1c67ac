"""A real tracking server is killed for half a minute in the middle of a real sweep, and started again."""

from __future__ import annotations

import pytest

from orchestrator.changes import Changes
from orchestrator.fingerprints import FilePlanner
from orchestrator.plan import Plan
from orchestrator.planning import Planning
from orchestrator.store import Store
from orchestrator.studies import load
from tests.orchestrator.tracking.looking import all_expected, logged, runs_at
from tests.orchestrator.tracking.server import serving
from tests.orchestrator.tracking.sweeping import STEPS, sweep


def planning(store: Store) -> Plan:
    """Return the plan of the sweep."""
    study = load("smoke", Changes(settings=(f"student.steps={STEPS}",)))
    return Planning(study, FilePlanner(store))(store.record)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_killed_in_the_middle_of_a_sweep_has_everything_once_afterwards(tmp_path):
    with serving(tmp_path / "server") as server:
        swept = sweep(tmp_path, server.uri, disturb=server)
        assert swept.code == 0, swept.said
        assert swept.was_in_the_middle, "the sweep was over before the server was back"
        away, back = swept.lines
        lost = f"MLflow: no answer from {server.uri}; the sweep goes on, and what it misses is sent later"
        assert away.endswith(lost)
        assert back.endswith(f"MLflow: {server.uri} answers again, and gets what it missed")
        store = Store(tmp_path / "runs")
        client, parent, children = runs_at(server.uri, study="smoke")
        assert set(children) == set(store.ids())
        plan = planning(store)
        once = all_expected(plan, store)
        assert set(once) == set(children)
        for run_id in once:
            assert logged(client, children[run_id]) == once[run_id]
            assert children[run_id].data.tags["status"] == "done"
        assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}
