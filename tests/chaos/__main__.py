"""`python -m tests.chaos`: as many kills as asked for, over as many stores as that takes; a table of all of them."""

from __future__ import annotations

import argparse
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import SWEEP, compare
from tests.chaos.kills import Done, Hunt, about, draw, follow, met
from tests.chaos.processes import Process, alive
from tests.chaos.table import markdown, row
from tests.chaos.watch import Watch

ROOT = Path(__file__).parents[2]
PER_STORE = 14
"""Kills that one store sees before it is let finish."""
SPAN_S = 15.0
"""About how long a quiet machine takes from the first run of a sweep to its end."""
ENDING_S = 120.0
"""How long a killed session's processes may take to end; they notice within seconds on a quiet machine."""
PATIENCE_S = 900.0
"""How long a command may go on after a kill; it has then hung, whatever the machine."""


class Command:
    """The sweep on one store, given once."""

    def __init__(self, store: Path) -> None:
        """Give it; what it says goes to a file beside the store."""
        store.mkdir(parents=True, exist_ok=True)
        self.log = store.with_suffix(".log")
        command = [sys.executable, "-m", "orchestrator", *shlex.split(SWEEP), "--store", str(store)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> str:
        """Wait for its end; return what is wrong if it does not come."""
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"the command hung for {PATIENCE_S:g} s"
        return ""

    def last_line(self) -> str:
        return (self.log.read_text(errors="replace").strip().splitlines() or [""])[-1]


class Round:
    """One store, on which the command is given until it ends well, with so many kills on the way."""

    def __init__(
        self, number: int, store: Path, kills: int, chance: random.Random, told: Callable[[Done], None]
    ) -> None:
        """Begin with an empty store; `told` hears of each kill."""
        self.number, self.store, self.kills, self.chance, self.told = number, store, kills, chance, told
        for name in ("work", "artefacts"):
            (store / name).mkdir(parents=True)
        self.watch = Watch(store / "work", store / "artefacts")
        self.writers: dict[Path, int] = {}
        self.members: set[Process] = set()
        self.times: dict[str, int] = {}
        self.done: list[Done] = []
        self.commands = 0
        self.pids: list[int] = []

    def run(self, undisturbed: Path) -> list[str]:
        """Return what is wrong in the end."""
        unasked = 0
        while True:
            self.commands += 1
            command, before = Command(self.store), len(self.done)
            self.pids.append(command.process.pid)
            wrong = self._disturb(command)
            for one in self.done[before:]:
                one.code = command.process.returncode
            self._follow()
            if wrong:
                return [wrong]
            if command.process.returncode == 0:
                break
            unasked = unasked + 1 if len(self.done) == before else 0
            if unasked > 2:  # runs given up for lost workers are tried once more by each command
                return [f"ended with exit code {command.process.returncode}: {command.last_line()}"]
        self.watch.close()
        wrongs = compare.faults(self.store, undisturbed, self.times)
        return wrongs + self._left()

    def _left(self) -> list[str]:
        """Return what has outlived its driver: processes, which may take a moment to end, and Ray's folders."""
        until = time.monotonic() + ENDING_S
        while alive(self.members) and time.monotonic() < until:
            time.sleep(0.5)
        folders = [path.name for pid in self.pids for path in Path("/tmp/ray").glob(f"session_*_{pid}")]
        return [f"{one.words[:60]} is left behind" for one in alive(self.members)] + [f"{n} is left" for n in folders]

    def _disturb(self, command: Command) -> str:
        """Kill in one command until it is over, or enough were killed; return what is wrong."""
        while not command.is_over() and len(self.done) < self.kills:
            hunt = Hunt(self.store, self.watch, draw(self.chance, SPAN_S), command.process.pid, self.writers)
            struck = hunt.wait(command.is_over)
            self.members |= hunt.members
            if struck is None:
                break
            self._follow()
            done = Done(self.number, hunt.kill, met(self.store), about(struck[0], hunt.kill))
            self.times |= compare.record_times(self.store)
            self.done.append(done)
            self.told(done)
            if hunt.kill.victim != "worker":
                break
        return command.wait()

    def _follow(self) -> None:
        for one in self.done:
            follow(one, self.store)


@dataclass
class Chaos:
    """Stores below `folder`; the first is swept undisturbed, each further one until it is finished in spite of all."""

    folder: Path
    seed: int
    done: list[Done] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    commands: int = 0
    finished: int = 0

    def run(self, kills: int, after_store: Callable[[], None] = lambda: None) -> None:
        """Kill that often; stop early where something is wrong. Calls `after_store` when one is done with."""
        chance = random.Random(self.seed)
        undisturbed = Command(self.folder / "undisturbed")
        if undisturbed.wait() or undisturbed.process.returncode:
            self.wrong.append(f"the undisturbed sweep failed: {undisturbed.last_line()}")
        while len(self.done) < kills and not self.wrong:
            number = self.finished + 1
            left = min(PER_STORE, kills - len(self.done))
            one = Round(number, self.folder / f"store-{number}", left, chance, self._tell)
            self.wrong = [f"store {number}: {line}" for line in one.run(self.folder / "undisturbed")]
            for done in one.done:
                done.outcome = "; ".join(self.wrong) or "same results"
            self.commands += one.commands
            self.finished += not self.wrong
            say(f"store {number}: {'; '.join(self.wrong) or 'as if undisturbed'}")
            after_store()

    def _tell(self, done: Done) -> None:
        self.done.append(done)
        say(row(len(self.done), done))


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1, help="of whom to kill and when; the machine adds its own chance")
    parser.add_argument("--store", type=Path, help="keep the stores in this folder, which is new or empty")
    parser.add_argument("--out", type=Path, help="write the table here, as Markdown")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.store or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        begun, chaos = time.monotonic(), Chaos(folder, options.seed)

        def write() -> None:
            if options.out is not None:
                options.out.write_text(markdown(chaos, options.kills, time.monotonic() - begun))

        chaos.run(options.kills, write)
    say(f"{len(chaos.done)} kills, {chaos.finished} stores: {'; '.join(chaos.wrong) or 'all as if undisturbed'}")
    return 1 if chaos.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
