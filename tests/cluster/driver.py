"""A driver in a process of its own, as the sweep is one: `python -m tests.cluster.driver STORE LEDGER`.

Counts in two long runs, with a dependant, on two CPUs; stops on SIGINT and SIGTERM. What it prints is the test's.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from cluster.base import Outcome
from orchestrator.plan import Run
from orchestrator.store import Store
from tests.fakes import make_run
from trainables.base import Progress


class Teller:
    """Prints what happens, a JSON line each."""

    def started(self, run: Run, attempt: int, host: str) -> None:
        print(json.dumps({"started": run.id, "attempt": attempt}), flush=True)

    def progressed(self, run: Run, progress: Progress) -> None:
        print(json.dumps({"progressed": run.id, "step": progress.step}), flush=True)

    def finished(self, outcome: Outcome) -> None:
        print(json.dumps({"finished": outcome.run.id, "status": outcome.status}), flush=True)

    def planned(self) -> list[Run]:
        return []


def make_runs(ledger: str) -> list[Run]:
    """Return two counting runs of a few seconds, and one that needs the first."""
    first, second = (make_run("count", seed=seed, steps=60, pause_s=0.05, ledger=ledger) for seed in (1, 2))
    return [first, second, make_run("noop", first, stage="evaluate", ledger=ledger)]


def main() -> None:
    from cluster.tune import TuneBackend

    caught: list[int] = []
    backend = TuneBackend(num_cpus=2)

    def stop(number: int, frame: object) -> None:
        caught.append(number)
        backend.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    backend.run(make_runs(sys.argv[2]), Store(Path(sys.argv[1])), Teller())
    backend.close()
    heavy = sorted({"torch", "transformers"} & set(sys.modules))
    print(json.dumps({"heavy": heavy}), flush=True)
    sys.exit(128 + caught[0] if caught else 0)


if __name__ == "__main__":
    main()
