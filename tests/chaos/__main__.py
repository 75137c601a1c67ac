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

from tests.chaos import compare
from tests.chaos.kills import Done, Hunt, about, draw, follow, met
from tests.chaos.processes import Process, alive
from tests.chaos.table import markdown, row
from tests.chaos.watch import Watch

ROOT = Path(__file__).parents[2]
SWEEP = (
    "sweep smoke --axis student.seed=1 --set teacher.steps=60 --set student.steps=20 "
    "--place teacher.checkpoint_every=4 --place student.checkpoint_every=3"
)
PER_STORE = 10
"""Kills that one store sees before it is let finish."""
SPAN_S = 30.0
"""About how long a sweep takes from its first run to its end."""
PATIENCE_S = 900.0
"""How long a command may go on after a kill; it has then hung, whatever the machine."""


@dataclass
class Chaos:
    """Stores below `folder`; the first is swept undisturbed, each further one until it is finished in spite of all."""

    folder: Path
    seed: int
    say: Callable[[str], None]
    done: list[Done] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    commands: int = 0
    finished: int = 0

    def run(self, kills: int) -> None:
        """Kill that often; stop early where something is wrong."""
        chance = random.Random(self.seed)
        if self._command(self.folder / "undisturbed").wait(PATIENCE_S) != 0:
            self.wrong.append("the undisturbed sweep failed")
        while len(self.done) < kills and not self.wrong:
            self._disturb(self.finished + 1, min(PER_STORE, kills - len(self.done)), chance)

    def _disturb(self, number: int, kills: int, chance: random.Random) -> None:
        """Sweep one store, with so many kills at most, until the command ends well; then compare."""
        store = self.folder / f"store-{number}"
        for name in ("work", "artefacts"):
            (store / name).mkdir(parents=True)
        watch, times, members, alone = Watch(store / "work", store / "artefacts"), {}, set[Process](), 0
        mine: list[Done] = []
        writers: dict[Path, int] = {}
        while not self.wrong:
            process = self._command(store)
            before = len(mine)
            while process.poll() is None:
                if len(mine) >= kills:
                    self._wait(process)
                    break
                hunt = Hunt(store, watch, draw(chance, SPAN_S), process.pid, writers)
                event = hunt.wait(lambda process=process: process.poll() is not None)
                members |= hunt.members
                if event is None:
                    break
                for one in mine:
                    follow(one, store)
                done = Done(number, hunt.kill, met(store), about(event[0], hunt.kill))
                mine.append(done)
                times |= compare.record_times(store)
                if hunt.kill.victim != "worker":
                    self._wait(process)
                self.done.append(done)
                self.say(row(len(self.done), done))
            code = process.returncode
            for one in mine[before:]:
                one.code = code
            for one in mine:
                follow(one, store)
            if code == 0:
                break
            alone = 0 if len(mine) > before else alone + 1
            if alone > 2 or code == 2:
                self.wrong.append(f"store {number}: ended with exit code {code}: {last_line(store)}")
        watch.close()
        if not self.wrong:
            self.wrong += [
                f"store {number}: {line}" for line in compare.faults(store, self.folder / "undisturbed", times)
            ]
            self.wrong += [f"store {number}: left behind: {one.words[:60]}" for one in alive(members)]
        for one in mine:
            one.outcome = "same results" if not self.wrong else "; ".join(self.wrong)
        self.finished += not self.wrong
        self.say(f"store {number}: {'; '.join(self.wrong) or 'as if undisturbed'}")

    def _command(self, store: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "orchestrator", *shlex.split(SWEEP), "--store", str(store)]
        store.mkdir(parents=True, exist_ok=True)
        self.commands += 1
        with store.with_suffix(".log").open("a") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.wrong.append(f"the command hung for {PATIENCE_S:g} s")
            process.kill()
            process.wait()


def last_line(store: Path) -> str:
    lines = store.with_suffix(".log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


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
        begun = time.monotonic()
        chaos = Chaos(folder, options.seed, lambda line: print(line, flush=True))
        chaos.run(options.kills)
        seconds = time.monotonic() - begun
    text = markdown(
        chaos.done, options.kills, options.seed, chaos.commands, chaos.finished, seconds, chaos.wrong, SWEEP
    )
    if options.out is not None:
        options.out.write_text(text)
    print(
        text.splitlines()[-1]
        if chaos.wrong
        else f"{len(chaos.done)} kills, {chaos.finished} stores: all as if undisturbed"
    )
    return 1 if chaos.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
