"""A driver on a cluster of three nodes, each with two CPUs and one GPU that is not there.

    python -m tests.cluster.nodes look|lose|open STORE

Prints, as JSON, where the workers of gangs were and what was refused; with `lose`, a node is killed in the middle of a
gang; with `open`, the cluster asks for no token. A process of its own: a process has one Ray session.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.joining import find_cluster
from orchestrator.errors import InfeasibleError, UserError
from orchestrator.plan import Run
from orchestrator.record import Record
from orchestrator.store import Store
from tests.cluster.conftest import Memory
from tests.fakes import make_run
from trainables.base import Place

NODE = {"num_cpus": 2, "num_gpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}


def gang(*needs: Run, **place: Any) -> Run:
    """Return a gang of workers that say where they are; on CPUs, although they hold GPUs."""
    return make_run("crowd", *needs, reads=len(needs), steps=2, place=Place(device="cpu", cpus=0.5, **place))


@contextmanager
def cluster() -> Iterator[Any]:
    """Start three nodes that ask for a token, which this process has, unless RAY_AUTH_MODE says that they do not."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        for _ in range(2):
            started.add_node(**NODE)
        started.wait_for_nodes()
        yield started
    finally:
        started.shutdown()


def sweep(backend: Any, runs: list[Run], store: Store, memory: Memory | None = None) -> Mapping[str, Record]:
    backend.run(runs, store, memory or Memory())
    return store.records(run.id for run in runs)


def refused(backend: Any, place: Place) -> str:
    try:
        backend.check({"dataset": Place(), "teacher": place})
    except InfeasibleError as error:
        return str(error)
    return ""


def look(backend: Any, store: Store) -> dict[str, Any]:
    """Run gangs of each strategy; return their nodes and devices by name, and the refusals."""
    pack = gang(workers=2, gpus=1)
    strict_pack = gang(pack, workers=2, gpus=0.5, strategy="STRICT_PACK")
    spread = gang(strict_pack, workers=2, gpus=0.5, strategy="SPREAD")  # alone: where it must, it lies on one node
    strict_spread = gang(spread, workers=3, gpus=1, strategy="STRICT_SPREAD")
    runs = {"pack": pack, "strict_pack": strict_pack, "spread": spread, "strict_spread": strict_spread}
    records = sweep(backend, list(runs.values()), store)
    found: dict[str, Any] = {name: records[run.id].metrics for name, run in runs.items()}
    found["refused"] = [
        refused(backend, Place(workers=2, gpus=1, strategy="STRICT_PACK")),
        refused(backend, Place(workers=2, gpus=0.6, device="cpu", strategy="STRICT_PACK")),
        refused(backend, Place(gpus=2)),
    ]
    return found


def lose(backend: Any, store: Store, nodes: Any) -> dict[str, Any]:
    """Kill two of three nodes in the middle of a gang that is on two, and let one come; return how it went on."""
    run = make_run("crowd", steps=60, pause_s=0.1, place=Place(workers=2, gpus=1, device="cpu", strategy="SPREAD"))

    def kill(kind: str, run_id: str) -> None:
        if kind == "progressed" and memory.steps[run_id][-1].step == 5:
            for node in [node for node in nodes.list_all_nodes() if node is not nodes.head_node]:
                nodes.remove_node(node, allow_graceful=False)
            nodes.add_node(**NODE)

    memory = Memory(hook=kill)
    record = sweep(backend, [run], store, memory)[run.id]
    return {"status": record.status, "attempts": memory.attempts[run.id], **record.metrics}


def turned_away(address: str, **variables: str) -> str:
    """Return why a driver with these variables may not join; empty if it may."""
    before = dict(os.environ)
    os.environ |= variables
    try:
        find_cluster(address)
    except UserError as error:
        return str(error)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return ""


def knock() -> dict[str, Any]:
    """Return what drivers hear from a cluster that asks for no token."""
    with cluster() as nodes:
        return {
            "with a token": turned_away(nodes.address, RAY_AUTH_MODE="token"),
            "without": turned_away(nodes.address, RAY_AUTH_MODE="disabled"),
        }


def main(what: str, folder: Path) -> None:
    os.environ |= {"RAY_AUTH_MODE": "disabled" if what == "open" else "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    from cluster.tune import TuneBackend  # and with it Ray, which looks at the environment now

    if what == "open":
        print(json.dumps(knock()))
        return
    with cluster() as nodes:
        backend = TuneBackend(address=nodes.address)
        try:
            found = look(backend, Store(folder)) if what == "look" else lose(backend, Store(folder), nodes)
            found["strangers"] = {
                "wrong": turned_away(nodes.address, RAY_AUTH_TOKEN="0" * 64),
                "none": turned_away(nodes.address, RAY_AUTH_MODE="disabled"),
                "ours": turned_away(nodes.address),
            }
        finally:
            backend.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
