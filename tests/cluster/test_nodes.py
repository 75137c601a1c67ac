"""Gangs on a cluster of three nodes with a GPU each; the driver is a process of its own, see `tests.cluster.nodes`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def drive(what: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.cluster.nodes", what, str(folder / "runs")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return drive("look", tmp_path_factory.mktemp("nodes"))


def test_gangs_lie_on_the_nodes_that_their_strategy_says(found: dict[str, Any]) -> None:
    nodes = {name: found[name]["nodes"].split(";") for name in ("pack", "strict_pack", "spread", "strict_spread")}
    assert all(len(node) > 40 for names in nodes.values() for node in names)
    assert len(nodes["strict_pack"]) == 2
    assert len(set(nodes["strict_pack"])) == 1
    assert len(set(nodes["spread"])) == len(nodes["spread"]) == 2
    assert len(set(nodes["strict_spread"])) == len(nodes["strict_spread"]) == 3
    assert len(set(nodes["pack"])) == 2, "a node has one GPU: workers of one each are spread, unless STRICT_PACK"


def test_workers_see_the_gpus_that_they_hold_and_shares_of_one_see_the_same(found: dict[str, Any]) -> None:
    assert found["strict_pack"]["devices"] == "0;0", "two halves of the only GPU of a node"
    assert found["strict_spread"]["devices"] == "0;0;0"


def test_what_no_layout_can_hold_is_refused_in_words(found: dict[str, Any]) -> None:
    gang, shares, large = found["refused"]
    assert gang == (
        "teacher asks for 2 workers of 1 GPU, 1 CPU each on one node (STRICT_PACK); the roomiest holds 1. "
        "Make it fit with --place teacher.workers=1 or --place teacher.strategy=PACK"
    )
    assert shares.startswith("teacher asks for 2 workers of 0.6 GPUs, 1 CPU each on one node (STRICT_PACK);")
    assert large.endswith("the largest node has 1 GPU, 2 CPUs. Make it fit with --place teacher.gpus=1")


def test_a_driver_without_the_token_is_turned_away_in_words(found: dict[str, Any]) -> None:
    assert found["strangers"]["ours"] == ""
    assert "does not take the token in RAY_AUTH_TOKEN" in found["strangers"]["wrong"]
    assert "asks for a token: unset RAY_AUTH_MODE" in found["strangers"]["none"]


@pytest.mark.slow
def test_a_cluster_that_asks_for_no_token_is_joined_only_by_who_says_so(tmp_path: Path) -> None:
    found = drive("open", tmp_path)
    assert "asks for no token" in found["with a token"]
    assert "RAY_AUTH_MODE=disabled" in found["with a token"]
    assert found["without"] == ""


@pytest.mark.slow
def test_a_gang_that_loses_a_node_goes_on_from_its_checkpoint_on_nodes_that_came_since(tmp_path: Path) -> None:
    found = drive("lose", tmp_path)
    assert (found["status"], found["total"]) == ("done", 60 * 61 // 2)
    assert found["attempts"] == [1, 2]
    assert 5 <= found["started_at"] < 60
    assert len(set(found["nodes"].split(";"))) == 2
