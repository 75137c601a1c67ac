"""Hosts on this machine: network, process, mount and host name namespaces of their own, joined by a bridge.

What a host starts is in its process namespace: its end is the end of all that ran on it, as with a real one. The file
system is this machine's, so every folder is shared, as the store is on a real cluster; Ray's own folder is not.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PORT = 6399
INIT = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # leaves no zombies, that `ray stop` would wait for
while True:
    signal.pause()
"""
NODES = """
import sys
from ray._raylet import GcsClient
nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5).values()
print(sum(node.state == 0 for node in nodes))
"""


def missing() -> str:
    """Say what this machine lacks for hosts of this kind; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if lacking := [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]:
        return f"needs {', '.join(lacking)}"
    name = f"try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return f"ip netns: {tried.stderr.strip()}" if tried.returncode else ""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Host:
    """One host: `namespace` its network, `link` its end of the cable in the switch, `init` its first process."""

    lan: Lan
    name: str
    address: str
    namespace: str
    link: str
    folder: Path
    init: subprocess.Popen[bytes] | None = None

    def boot(self, *command: str) -> None:
        """Start the host with this command as its first process; all that runs on it ends with it."""
        script = 'hostname "$1"; mount --bind "$2" /etc/hosts; shift 2; exec "$@"'
        inside = ["unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
        first = ["sh", "-c", script, "sh", self.name, str(self.lan.folder / "hosts"), *command]
        with (self.lan.folder / f"{self.name}.log").open("ab") as log:
            self.init = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *inside, *first],
                env=self.lan.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_ray(self, *options: str) -> None:
        """Boot with a Ray node of one CPU as the first process."""
        self.boot(
            *[sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options],
            *[f"--node-ip-address={self.address}", f"--temp-dir={self.folder}", "--num-cpus=1", "--num-gpus=0"],
            *["--object-store-memory=80000000", "--disable-usage-stats"],
        )

    def wait_until_up(self) -> None:
        """Return when commands can be started here."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with suppress(IndexError, subprocess.TimeoutExpired):
                if self.run("hostname").stdout.strip() == self.name:
                    return
            time.sleep(0.1)
        raise AssertionError(f"{self.name} did not come up")

    def start(self, *command: str, log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command on the running host."""
        with log.open("ab") as stream:
            return subprocess.Popen(
                self._entering(command), env={**self.lan.environment, **environment}, stdout=stream, stderr=stream
            )

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the running host."""
        about = {**self.lan.environment, **environment}
        return subprocess.run(self._entering(command), env=about, capture_output=True, text=True, timeout=120)

    def crash(self) -> None:
        """Kill -9 everything that runs here, at once."""
        assert self.init is not None
        for pid in _children(self.init.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.init.kill()
        self.init.wait()

    def cut(self) -> None:
        """Pull the cable out of the switch."""
        ip("-n", self.lan.switch, "link", "set", self.link, "down")

    def _entering(self, command: Sequence[str]) -> list[str]:
        assert self.init is not None
        return ["nsenter", "--all", f"--target={_children(self.init.pid)[0]}", f"--wd={ROOT}", *command]


@dataclass
class Lan:
    """A switch with two hosts on it, of which the first is the head of a Ray cluster that asks for a token."""

    folder: Path
    environment: Mapping[str, str]
    switch: str
    hosts: list[Host] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Of the cluster."""
        return f"{self.hosts[0].address}:{PORT}"

    def add(self, number: int) -> None:
        """Plug in another host."""
        namespace, link = f"{self.switch}-{number}", f"port{number}"
        ip("netns", "add", namespace)
        host = Host(self, f"host{number}", f"10.77.0.{number}", namespace, link, _short_folder())
        self.hosts.append(host)
        ip("link", "add", link, "netns", self.switch, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        ip("-n", self.switch, "link", "set", link, "master", "bridge", "up")
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        ip("-n", namespace, "link", "set", "eth0", "up")
        ip("-n", namespace, "route", "add", "default", "via", "10.77.0.254")

    def boot(self) -> None:
        """Start the hosts with nothing on them."""
        for host in self.hosts:
            host.boot(sys.executable, "-c", INIT)
        for host in self.hosts:
            host.wait_until_up()

    def start_ray(self) -> None:
        """Start Ray on all hosts; return when they form a cluster."""
        head, *others = self.hosts
        head.start_ray("--head", f"--port={PORT}", "--include-dashboard=false")
        self._wait_for(1)
        for host in others:
            host.start_ray(f"--address={self.address}")
        self._wait_for(len(self.hosts))

    def close(self) -> None:
        """End everything and leave nothing behind."""
        for host in self.hosts:
            if host.init is not None and host.init.poll() is None:
                host.crash()
            shutil.rmtree(host.folder, ignore_errors=True)
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True)
        subprocess.run(["ip", "netns", "del", self.switch], capture_output=True)

    def _wait_for(self, count: int) -> None:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            with suppress(IndexError, subprocess.TimeoutExpired):  # not booted yet
                said = self.hosts[0].run(sys.executable, "-c", NODES, self.address).stdout.strip()
                if said == str(count):
                    return
            time.sleep(0.5)
        logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("host*.log"))
        raise AssertionError(f"{count} nodes did not come up:\n{logs}")


@contextmanager
def lan(folder: Path, *, with_ray: bool = True) -> Iterator[Lan]:
    """Two hosts, with a Ray cluster on them; logs and the token in `folder`."""
    home = folder / "home"
    home.mkdir()
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {
        **kept,
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    (folder / "hosts").write_text("127.0.0.1 localhost\n10.77.0.1 host1\n10.77.0.2 host2\n")
    made = Lan(folder, environment, f"lan{os.getpid()}-{secrets.token_hex(2)}")
    try:
        ip("netns", "add", made.switch)
        ip("-n", made.switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", made.switch, "link", "set", "bridge", "up")
        for number in (1, 2):
            made.add(number)
        if with_ray:
            made.start_ray()
        else:
            made.boot()
        yield made
    finally:
        made.close()


def attempts(store: Path, stage: str = "") -> Iterator[Path]:
    """Yield the folders of the attempts in progress (at runs of a stage); folders come and go meanwhile."""
    for run in _inside(store / "work"):
        if run.name.startswith(f"{stage}-" if stage else ""):
            yield from (attempt for attempt in _inside(run) if attempt.name.isdigit())


def _short_folder() -> Path:
    """Return a new folder whatever TMPDIR says: Ray's sockets lie in it, and their paths have 107 bytes at most."""
    return Path(tempfile.mkdtemp(prefix="host", dir="/tmp"))


def _inside(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return list(folder.iterdir())
    return []


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
