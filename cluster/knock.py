"""Ask a Ray cluster whether it lets us in, in a process of its own: Ray's client writes to stderr, and keeps a token.

`python -m cluster.knock HOST:PORT` prints an answer; it is of no use by hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping

from cluster.paths import python_path

TIMEOUT_S = 30.0
"""How long an answer may take; a cluster gives it within milliseconds, but Ray loads for a while on a busy machine."""

REFUSED, HERE, ELSEWHERE, SILENT = "refused", "here", "elsewhere", ""
"""What a cluster answers: not with this token; yes, and this machine is a node of it; yes, and it is not; nothing."""


class Knock:
    """A question to the cluster at host:port, on its way; `answer` waits for the answer."""

    def __init__(self, address: str, environment: Mapping[str, str] | None = None) -> None:
        """Ask, with these variables changed."""
        self.until_s = time.monotonic() + TIMEOUT_S
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster.knock", address],
            env={**os.environ, **(environment or {}), "PYTHONPATH": python_path()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def answer(self) -> str:
        """Return the answer; SILENT where none came in time."""
        try:
            said, _ = self.process.communicate(timeout=max(0.0, self.until_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            return SILENT
        return SILENT if self.process.returncode else said.strip()


def ask(address: str) -> str:
    """Return what the cluster at host:port says to the token that the environment names."""
    from ray._private.services import find_node_ids
    from ray._raylet import GcsClient  # type: ignore[attr-defined] # compiled
    from ray.exceptions import AuthenticationError

    try:
        nodes = {node.hex() for node in GcsClient(address=address).get_all_node_info(timeout=TIMEOUT_S)}
    except AuthenticationError:
        return REFUSED
    return HERE if nodes & set(find_node_ids()) else ELSEWHERE


if __name__ == "__main__":
    sys.stdout.write(ask(sys.argv[1]) + "\n")
