"""The files of `ray up`, read and checked by Ray itself, as far as that goes without machines and without boto3."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

LAUNCH = Path(__file__).parents[3] / "cluster" / "launch"
FILES = ("own_machines", "aws")


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / f"{name}.yaml").read_text())


@pytest.fixture(params=FILES)
def prepared(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A file as `ray up` has it once defaults are filled in and its schema is checked."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read(request.param))
    validate_config(config)
    return config


def test_the_cluster_of_own_machines_passes_all_that_ray_up_does_before_it_connects(monkeypatch, tmp_path) -> None:
    from ray.autoscaler._private.commands import _bootstrap_config

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    config = _bootstrap_config(read("own_machines"), no_config_cache=True)
    addresses = [config["provider"]["head_ip"], *config["provider"]["worker_ips"]]
    assert len(set(addresses)) == len(addresses) == config["max_workers"] + 1


def test_all_nodes_are_there_before_a_sweep_looks(prepared: dict[str, Any]) -> None:
    workers = [kind for name, kind in prepared["available_node_types"].items() if name != "head"]
    assert all(kind["min_workers"] == kind["max_workers"] for kind in workers)
    assert sum(kind["min_workers"] for kind in workers) == prepared["max_workers"]


def test_every_node_asks_for_the_token_and_has_it(prepared: dict[str, Any]) -> None:
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in prepared["setup_commands"]
    starts = [
        command
        for role in ("head", "worker")
        for command in prepared[f"{role}_start_ray_commands"]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in starts)


def test_nothing_listens_beyond_loopback_but_ray_itself(prepared: dict[str, Any]) -> None:
    head = next(command for command in prepared["head_start_ray_commands"] if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in str(prepared)
    assert "ray-client-server-port" not in str(prepared)


def test_ray_start_takes_the_options(prepared: dict[str, Any]) -> None:
    from ray.scripts.scripts import start

    for role in ("head", "worker"):
        command = prepared[f"{role}_start_ray_commands"][-1]
        words = shlex.split(command)
        start.make_context("start", words[words.index("start") + 1 :])


def test_the_head_on_ec2_runs_nothing_but_the_driver() -> None:
    config = read("aws")
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]


def test_workers_on_ec2_hold_every_stage_of_the_scale_on_the_page() -> None:
    from cluster.placement import check
    from search_spaces.scales import SCALES

    worker = read("aws")["available_node_types"]["worker"]
    nodes = {f"worker{number}": {**worker["resources"], "memory": 0.0} for number in range(worker["min_workers"])}
    check(SCALES["qwen2.5-math-1.5b"].places, nodes)
