"""A sweep on two hosts: it uses both, and a host that dies or is cut off in the middle changes no result."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.compare import table
from tests.hosts import lan as machines
from tests.hosts.lan import Host, Lan

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(machines.missing()), reason=machines.missing() or "never"),
]

SIZE = ["--set", "teacher.steps=300", "--set", "student.steps=60", "--set", "student.learning_rate=3e-3"]
SIZE += ["--axis", "student.rank=4", "--axis", "student.seed=1"]
CADENCE = ["--place", "teacher.checkpoint_every=10", "--place", "student.checkpoint_every=5"]
GANG = ["--place", "teacher.workers=2", "--place", "teacher.strategy=STRICT_SPREAD", "--until", "teacher"]
GANG += ["--set", "teacher.steps=40"]


def command(store: Path, address: str, *more: str) -> list[str]:
    words = ["sweep", "smoke", *SIZE, *CADENCE, *more, "--store", str(store), "--address", address]
    return [sys.executable, "-m", "orchestrator", *words]


def sweep(lan: Lan, store: Path, *more: str, while_it_runs: Callable[[Callable[[], bool]], None] | None = None) -> None:
    """Run the command on the head, and something else meanwhile; it must end well."""
    log = store.parent / f"{store.name}.log"
    process = lan.hosts[0].start(*command(store, lan.address, *more), log=log)
    try:
        if while_it_runs is not None:
            while_it_runs(lambda: process.poll() is None)
        assert process.wait(timeout=500) == 0, log.read_text()[-3000:]
    finally:
        process.kill()


def records(store: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(store.glob("artefacts/*/record.json"))]


def hosts_of(found: list[dict[str, Any]]) -> set[str]:
    return {record["provenance"]["host"] for record in found}


def running_on(store: Path, host: Host) -> list[str]:
    """Return the ids of runs that are in the middle, beyond their first checkpoint, on this host."""
    found = []
    for attempt in machines.attempts(store):
        try:
            about = json.loads((attempt / "progress.json").read_text())
            log = (attempt / "output" / "log.txt").read_text()
            has_checkpoint = any((attempt / "checkpoints").iterdir())
        except (FileNotFoundError, ValueError):
            continue
        is_in_the_middle = 10 < about["step"] < about["total"] - 10
        if is_in_the_middle and has_checkpoint and f"on {host.name}\n" in log:
            found.append(attempt.parent.name)
    return found


def interrupt(store: Path, host: Host, blow: Callable[[], None], struck: list[str]) -> Callable[..., None]:
    """Return what strikes the host while a run is in the middle there, and notes which."""

    def strike(is_alive: Callable[[], bool]) -> None:
        until = time.monotonic() + 200
        while not (found := running_on(store, host)):
            assert is_alive(), "the sweep ended before it could be disturbed"
            assert time.monotonic() < until, "nothing ever ran there"
            time.sleep(0.005)
        blow()
        struck.extend(found)

    return strike


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """Two hosts that nothing happens to."""
    with machines.lan(tmp_path_factory.mktemp("quiet")) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(quiet: Lan) -> Path:
    """The store of a sweep on them."""
    store = quiet.folder / "runs"
    sweep(quiet, store)
    return store


def test_a_sweep_runs_on_both_hosts(undisturbed: Path) -> None:
    assert hosts_of(records(undisturbed)) == {"host1", "host2"}


def test_a_gang_lies_on_both_hosts(quiet: Lan) -> None:
    store, seats = quiet.folder / "gang", dict.fromkeys(("host1", "host2"), 0)

    def watch(is_alive: Callable[[], bool]) -> None:
        while is_alive():
            for host in quiet.hosts:
                titles = host.run("ps", "-eo", "args").stdout
                seats[host.name] = max(seats[host.name], titles.count("ray::Seat"))
            time.sleep(0.5)

    sweep(quiet, store, *GANG, while_it_runs=watch)
    assert seats == {"host1": 1, "host2": 1}
    (teacher,) = [record for record in records(store) if record["stage"] == "teacher"]
    assert (teacher["status"], teacher["provenance"]["place"]["workers"]) == ("done", 2)


def test_a_worker_without_the_token_is_turned_away(quiet: Lan) -> None:
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={quiet.address}", "--num-cpus=1"]
    done = quiet.hosts[1].run(*start, RAY_AUTH_MODE="disabled", RAY_TMPDIR=str(quiet.hosts[1].folder))
    assert done.returncode != 0
    assert "AuthenticationError" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RAY_AUTH_TOKEN_PATH": ""}, "ray get-auth-token --generate"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "does not take the token in RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token"),
    ],
)
def test_a_driver_without_the_token_is_turned_away_in_words(quiet: Lan, environment: dict[str, str], said: str) -> None:
    done = quiet.hosts[0].run(*command(quiet.folder / "none", quiet.address), **environment)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_driver_on_a_machine_that_is_no_node_of_the_cluster_is_told_so(quiet: Lan) -> None:
    alone = ["unshare", "--pid", "--fork", "--mount-proc"]  # sees no Ray of its own
    done = quiet.hosts[1].run(*alone, *command(quiet.folder / "none", quiet.address))
    assert done.returncode == 2
    assert f"no node of the Ray cluster at {quiet.address}" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("fate", ["dies", "is cut off"])
def test_a_host_that_goes_in_the_middle_changes_no_result(tmp_path: Path, undisturbed: Path, fate: str) -> None:
    store, struck = tmp_path / "runs", []
    with machines.lan(tmp_path) as made:
        victim = made.hosts[1]
        blow = victim.crash if fate == "dies" else victim.cut
        sweep(made, store, while_it_runs=interrupt(store, victim, blow, struck))
    attempts = {record["id"]: record["provenance"] for record in records(store)}
    assert struck
    assert all(attempts[run_id]["attempt"] > 1 and attempts[run_id]["host"] == "host1" for run_id in struck)
    assert table(store) == table(undisturbed)
    assert list(store.glob("work/*")) == []
