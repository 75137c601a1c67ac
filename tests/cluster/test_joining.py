"""Joining a cluster that is not there, or is none, ends in one line and exit code 2; tokens are in test_nodes.py."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.joining import find_cluster, resolve
from orchestrator.errors import UserError


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port at which somebody listens who is no Ray cluster."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "--address 127.0.0.1:1: nothing answers at .*:1 .*refused"),
        ("nonsense", "--address nonsense: not a host:port"),
        ("ray://127.0.0.1:10001", "give host:port or auto"),
        ("127.0.0.1:port", "--address 127.0.0.1:port: nothing answers"),
    ],
)
def test_an_address_where_no_cluster_can_be_is_named(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_cluster(address)


def test_what_is_no_ray_cluster_is_not_waited_for(deaf: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.knock.TIMEOUT_S", 1.0)
    with pytest.raises(UserError, match=f"no Ray cluster of our version answers at .*:{deaf};"):
        find_cluster(f"127.0.0.1:{deaf}")


def test_auto_does_not_choose_among_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.services._find_address_from_flag", lambda flag: {"10.0.0.1:1", "10.0.0.1:2"})
    with pytest.raises(UserError, match=r"name one of 10\.0\.0\.1:1, 10\.0\.0\.1:2"):
        resolve("auto")


def test_the_command_says_so_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator", "sweep", "smoke", "--address", "127.0.0.1:1"]
    done = subprocess.run(
        [*command, "--store", str(tmp_path / "runs")], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("orchestrator: --address 127.0.0.1:1: nothing answers")
