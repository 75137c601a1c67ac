"""A driver on a cluster whose second node is a raylet of its own mounts: `python -m tests.cluster.probed HOW STORE`.

HOW: elsewhere (another folder in the store's place); readonly; newer (another source); late (elsewhere, and
joins when the sweep has begun). Prints as JSON how it ended and on which nodes runs were. Needs root, for `unshare -m`.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator.errors import UserError
from orchestrator.store import Store
from tests.cluster.conftest import Memory
from tests.cluster.nodes import NODE
from tests.fakes import make_run

RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]


def mounts(how: str, store: Path) -> str:
    """Return the commands that give a node its own view."""
    path = shlex.quote(str(store))
    if how in ("elsewhere", "late"):
        return f"mount -t tmpfs none {path}"
    if how == "readonly":
        return f"mount --bind {path} {path} && mount -o remount,ro,bind {path}"
    if how == "newer":
        module = Path(orchestrator.__file__).with_name("design.py")
        changed = store.with_name("design.py")
        changed.write_text(module.read_text() + "# changed\n")
        return f"mount --bind {shlex.quote(str(changed))} {shlex.quote(str(module))}"
    raise ValueError(how)


def node(how: str, store: Path, address: str) -> subprocess.Popen[bytes]:
    ray = [*RAY, "start", f"--address={address}", "--num-cpus=2", "--block", "--disable-usage-stats"]
    script = f"{mounts(how, store)} && exec {shlex.join(ray)}"
    return subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=sys.stderr, stderr=sys.stderr)


def sweep(address: str, store: Store, told: list[str], hook: Any) -> dict[str, Any]:
    from cluster.tune import TuneBackend

    memory = Memory(hook=hook)
    backend = TuneBackend(address=address, tell=told.append)
    runs = [make_run("sleep", seed=seed, seconds=0.3) for seed in range(12)]
    try:
        backend.run(runs, store, memory)
    except UserError as error:
        return {"refused": str(error), "begun": len(memory.attempts)}
    finally:
        backend.close()
    return {"statuses": sorted(set(memory.statuses(runs)))}


def wait_for_nodes(count: int) -> None:
    """Wait until the cluster has so many."""
    import ray

    while len([one for one in ray.nodes() if one["Alive"]]) < count:
        time.sleep(0.1)


def main(how: str, store: Path) -> None:
    from ray.cluster_utils import Cluster

    from cluster import tune

    tune.NODES_EVERY_S = 0.2
    store.mkdir(parents=True)
    head = Cluster(initialize_head=True, head_node_args=NODE)
    told: list[str] = []
    others: list[subprocess.Popen[bytes]] = []
    begun: list[str] = []

    def hook(kind: str, run_id: str) -> None:
        begun.append(run_id)
        if how == "late" and len(begun) == 3:
            others.append(node(how, store, head.address))
            wait_for_nodes(2)
        if how == "late" and others and not told and kind == "finished":
            time.sleep(0.5)

    try:
        if how != "late":
            others.append(node(how, store, head.address))
            import ray

            ray.init(address=head.address, log_to_driver=False, logging_level="critical")
            wait_for_nodes(2)
            ray.shutdown()
        found = sweep(head.address, Store(store), told, hook)
    finally:
        for other in others:
            other.terminate()
            other.wait()
        head.shutdown()
    print(json.dumps({**found, "told": told, "left": sorted(path.name for path in store.glob("work/*"))}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    main(sys.argv[1], Path(sys.argv[2]))
