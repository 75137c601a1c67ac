"""A Ray session that keeps to itself: nothing on the terminal, nothing beyond loopback, nobody's signal handlers.

A `Session` starts Ray on this machine, or joins the cluster at an address; one that was there already is used as it
is, and left as it was. Either way a token is asked for (`cluster.tokens`).
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Mapping
from typing import Any

from cluster import tokens
from cluster.joining import find_cluster, joining
from cluster.paths import own_paths
from orchestrator.errors import UserError
from orchestrator.estimate import available_cpus

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
}
"""Tune writes no state of its own while it runs (the store is the truth), no log files, and catches no signals."""

OBJECT_STORE_BYTES = 100 * 2**20
"""What travels through Ray is a run's config and its measurements; data and models go through the store."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class SessionLost(UserError):
    """Ray is no longer there for the driver."""


class Session:
    """A connection to Ray, with what has to be undone when it closes."""

    def __init__(self, address: str | None = None, *, num_cpus: int | None = None, num_gpus: int | None = None) -> None:
        """Connect. `num_cpus` and `num_gpus` are for a session on this machine; None: those there are."""
        os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
        import ray

        self.ray = ray
        self.is_ours = not ray.is_initialized()
        if self.is_ours:
            signals = Signals()
            self._start(address, num_cpus, num_gpus)
            signals.restore()
        for name in ("ray", "ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.address = address
        self.node: str = ray.get_runtime_context().get_node_id()

    def _start(self, address: str | None, num_cpus: int | None, num_gpus: int | None) -> None:
        options: dict[str, Any] = {
            "job_config": self.ray.job_config.JobConfig(_py_driver_sys_path=own_paths()),
            "log_to_driver": False,
            "logging_level": "critical",
        }
        if address is None:
            tokens.prepare(may_make=True)
            options |= {
                "address": "local",
                "num_cpus": num_cpus or available_cpus(),
                "num_gpus": num_gpus,
                "include_dashboard": False,
                "dashboard_host": "127.0.0.1",
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        else:
            options["address"] = find_cluster(address)
        self.ray._raylet.Config.initialize("")  # reads RAY_AUTH_MODE again
        with joining(address):
            self.ray.init(**options)
        # What raylets have to say of a dead worker is printed on stdout even so; it is in the run's failure.
        self.ray._private.worker.print_to_stdstream = lambda *args, **options: None

    @property
    def trusted(self) -> frozenset[str]:
        """The nodes that see files and code as this process does: without an address, the one on this machine."""
        return frozenset() if self.address else frozenset({self.node})

    def nodes(self) -> dict[str, Mapping[str, float]]:
        """Return what each living node has in all, by node id; raises SessionLost if the driver's own is none."""
        names = ("CPU", "GPU", "memory")
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        if self.node not in [node["NodeID"] for node in alive]:
            raise SessionLost(
                "Ray's own process on this machine (raylet) is gone; nothing that was finished, and no "
                "checkpoint, is lost: give the same command again"
            )
        return {node["NodeID"]: {name: node["Resources"].get(name, 0.0) for name in names} for node in alive}

    def close(self) -> None:
        """End the session, if it is ours, and remove Ray's folder of it."""
        if not self.is_ours or not self.ray.is_initialized():
            return
        node = self.ray._private.worker._global_node
        folder = node.get_session_dir_path() if node is not None and node.is_head() else None
        signals = Signals()
        self.ray.shutdown()
        signals.restore()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class Signals:
    """The handlers of SIGINT, SIGTERM and SIGUSR1 as they are now, to put back when Ray or Tune has set its own."""

    def __init__(self) -> None:
        """Note the handlers; only the main thread may change them."""
        is_main = threading.current_thread() is threading.main_thread()
        self.handlers = {number: signal.getsignal(number) for number in SIGNALS} if is_main else {}

    def restore(self) -> None:
        """Put them back."""
        for number, handler in self.handlers.items():
            if handler is not None:  # None: installed from C, and not ours to touch
                signal.signal(number, handler)
