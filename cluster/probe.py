"""Whether every node of a cluster sees the store, and runs the same code: asked before anything trains.

A task pinned to each node reads a marker that the driver has written into the store, leaves an answer beside it, and
says what it runs. A node that joins later is asked before it counts.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import platform
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.ending import package_versions
from orchestrator.errors import StoreError, UserError
from orchestrator.identity import differences

MARKER = "marker"
OURS = ("orchestrator", "trainables", "cluster")
DECIDING = ("torch", "transformers", "peft", "deepspeed", "ray")
"""Packages that have to be of one version everywhere; what follows a + names a build, for CPUs or a CUDA, and may
differ."""

PATIENCE_S = 120.0
"""How long a node may take to answer: it starts a process, and imports Ray."""


@dataclass(frozen=True)
class Answer:
    """What a node says: its name, what it runs, and what is wrong with the store as it sees it."""

    host: str
    build: Mapping[str, str]
    trouble: str = ""


@functools.cache
def build() -> dict[str, str]:
    """Return what must be equal on all nodes: Python, a digest of our source, versions of what computes."""
    versions = {name: version.partition("+")[0] for name, version in package_versions().items() if name in DECIDING}
    return {"python": ".".join(platform.python_version_tuple()[:2]), "source": source_digest(), **versions}


def source_digest() -> str:
    """Return a digest of all modules of ours, wherever they are installed."""
    digest = hashlib.sha256()
    for name in OURS:
        found = importlib.util.find_spec(name)
        for folder in (found.submodule_search_locations or ()) if found else ():
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{name}/{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def look(folder: Path, token: str, name: str) -> Answer:
    """Read the marker in `folder` and answer beside it in a file of this name; runs on the node that is asked."""
    trouble = ""
    try:
        if (folder / MARKER).read_text() != token:
            trouble = "sees another folder in the place of"
        else:
            (folder / name).write_text(token)
    except FileNotFoundError:
        trouble = "does not see"
    except OSError as error:
        trouble = f"cannot write to ({error.strerror})"
    return Answer(socket.gethostname(), build(), trouble)


class Probe:
    """Asks nodes, each once. `store` is the store's root, `folder` one below it that goes with the sweep."""

    def __init__(self, store: Path, folder: Path, trusted: frozenset[str], tell: Callable[[str], None]) -> None:
        """Write the marker; `trusted` nodes are not asked, `tell` hears why a node that came late does not count."""
        self.store, self.folder, self.tell = store, folder, tell
        self.accepted, self.refused = set(trusted), set[str]()
        self.asked: dict[str, Any] = {}
        self.token = secrets.token_hex(8)
        (folder / MARKER).write_text(self.token)

    def refuse_others(self, nodes: Mapping[str, object]) -> None:
        """Ask all these nodes and wait; raises UserError naming the first that cannot take part."""
        until = time.monotonic() + PATIENCE_S
        while self._pending(nodes):
            for node, trouble in self._answers(nodes, wait_s=1.0):
                if trouble is not None:
                    raise trouble
                self.accepted.add(node)
            if time.monotonic() > until:
                raise UserError(
                    f"node {next(iter(self._pending(nodes)))} of the cluster has not answered for {PATIENCE_S:g} s: "
                    "take it out of the cluster, or start Ray there again"
                )

    def usable(self, nodes: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
        """Return those of the nodes that have answered well; ask the new ones, and wait for none."""
        for node, trouble in self._answers(nodes, wait_s=0.0):
            if trouble is None:
                self.accepted.add(node)
            else:
                self.refused.add(node)
                self.tell(f"left out: {trouble}")
        return {node: has for node, has in nodes.items() if node in self.accepted}

    def _pending(self, nodes: Mapping[str, object]) -> set[str]:
        return set(nodes) - self.accepted - self.refused

    def _answers(self, nodes: Mapping[str, object], wait_s: float) -> list[tuple[str, UserError | None]]:
        """Ask whom nobody has asked yet; return who has answered by then, and what is wrong with it if anything is."""
        for node in self._pending(nodes) - self.asked.keys():
            pinned = NodeAffinitySchedulingStrategy(node, soft=False)
            task = ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)
            self.asked[node] = task.remote(self.folder, self.token, node)
        refs = list(self.asked.values())
        ready = ray.wait(refs, num_returns=1, timeout=wait_s)[0] if refs else []
        found = [node for node, ref in self.asked.items() if ref in ready]
        heard = [(node, self._heard(node, self.asked.pop(node))) for node in found]
        return [(node, trouble) for node, (is_there, trouble) in heard if is_there]

    def _heard(self, node: str, ref: Any) -> tuple[bool, UserError | None]:
        """Return whether the node has answered, and what is wrong with it."""
        try:
            answer: Answer = ray.get(ref)
        except RayTaskError as error:
            words = " ".join(str(error.cause or error).split())[:200]
            return True, UserError(f"node {node} of the cluster cannot run our code ({words}); install it there too")
        except RayError:  # it has gone; if it is still there, it is asked again
            return False, None
        return True, self._judge(node, answer)

    def _judge(self, node: str, answer: Answer) -> UserError | None:
        trouble = answer.trouble
        if not trouble and not (self.folder / node).is_file():
            trouble = "sees another folder in the place of"
        if trouble:
            return StoreError(
                f"node {answer.host} {trouble} the store {self.store}: choose a folder on a file system that all nodes "
                "mount in the same place, with --store DIR"
            )
        others = ", ".join(differences(build(), answer.build))
        return (
            UserError(f"node {answer.host} runs other code ({others}): bring the same to all nodes") if others else None
        )
