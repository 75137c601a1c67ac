"""The RayJob: its command is one of ours, its pods hold the scale, its volume, its token, and nothing exposed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import parse

FILE = Path(__file__).parents[3] / "cluster" / "launch" / "kuberay.yaml"


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())["spec"]


@pytest.fixture(scope="module")
def command(job: dict[str, Any]) -> Any:
    """The entrypoint as our command line reads it."""
    words = shlex.split(job["entrypoint"])
    assert words[:3] == ["python", "-m", "orchestrator"]
    return parse(words[3:])


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_entrypoint_joins_the_jobs_own_cluster(command: Any) -> None:
    assert command.address == "auto"
    assert not command.local


def test_every_pod_mounts_the_store(job: dict[str, Any], command: Any) -> None:
    for pod in pods(job):
        (mount,) = pod["containers"][0]["volumeMounts"]
        claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        assert Path(command.store).is_relative_to(mount["mountPath"])
        assert claims[mount["name"]] == "sweep"


def test_the_databases_are_not_on_the_shared_volume(command: Any) -> None:
    assert not Path(command.views).is_relative_to("/shared")


def test_the_pods_hold_every_stage_of_the_scale(job: dict[str, Any], command: Any) -> None:
    from cluster.placement import check
    from search_spaces.scales import SCALES

    nodes = {}
    for group in job["rayClusterSpec"]["workerGroupSpecs"]:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"], "Ray counts the limits"
        has = resources["limits"]
        memory = float(has["memory"].removesuffix("Gi")) * 2**30
        one = {"CPU": float(has["cpu"]), "GPU": float(has["nvidia.com/gpu"]), "memory": memory}
        nodes |= {f"{group['groupName']}{number}": one for number in range(group["minReplicas"])}
    check(SCALES[command.scale].places, nodes)
    student = SCALES[command.scale].places["student"]
    assert all(node["CPU"] >= student.cpus * node["GPU"] / student.gpus for node in nodes.values()), "idle GPUs"


def test_the_head_drives_and_runs_nothing(job: dict[str, Any]) -> None:
    assert job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_all_workers_are_there_from_the_start(job: dict[str, Any]) -> None:
    for group in job["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_a_token_is_asked_for_and_nothing_is_exposed(job: dict[str, Any]) -> None:
    cluster = job["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    text = FILE.read_text()
    assert not [word for word in ("NodePort", "kind: Ingress", "enableIngress", "hostPort") if word in text]


def test_nothing_is_left_when_the_job_has_ended_and_a_lost_head_is_no_end(job: dict[str, Any]) -> None:
    assert job["shutdownAfterJobFinishes"] is True
    assert 0 < job["ttlSecondsAfterFinished"] < 3600
    assert job["backoffLimit"] >= 1


def test_pods_run_the_ray_that_is_tested_here(job: dict[str, Any]) -> None:
    import ray

    assert job["rayClusterSpec"]["rayVersion"] == ray.__version__
    assert f"rayproject/ray:{ray.__version__}-" in FILE.with_name("kuberay.md").read_text()
    images = {pod["containers"][0]["image"] for pod in pods(job)}
    assert len(images) == 1
