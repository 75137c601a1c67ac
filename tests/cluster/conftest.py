"""Backends to test, and an observer that remembers what it was told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.base import Backend, Outcome
from cluster.local import LocalBackend
from orchestrator.plan import Run
from orchestrator.store import Store
from trainables.base import Progress

MakeBackend = Callable[[], Backend]


@dataclass
class Memory:
    """An observer that remembers; `hook` is called after each event with its kind and the run's id.

    `later` are runs that it comes to plan once another has ended, by that one's id.
    """

    events: list[tuple[str, str]] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    steps: dict[str, list[Progress]] = field(default_factory=dict)
    attempts: dict[str, list[int]] = field(default_factory=dict)
    hook: Callable[[str, str], None] = lambda kind, run_id: None
    later: dict[str, list[Run]] = field(default_factory=dict)

    def started(self, run: Run, attempt: int, host: str) -> None:
        self.attempts.setdefault(run.id, []).append(attempt)
        assert host
        self._remember("started", run.id)

    def progressed(self, run: Run, progress: Progress) -> None:
        self.steps.setdefault(run.id, []).append(progress)
        self._remember("progressed", run.id)

    def finished(self, outcome: Outcome) -> None:
        assert outcome.run.id not in self.outcomes, "an end is told once"
        self.outcomes[outcome.run.id] = outcome
        self._remember("finished", outcome.run.id)

    def planned(self) -> list[Run]:
        return [run for ended in [*self.later] if ended in self.outcomes for run in self.later.pop(ended)]

    def _remember(self, kind: str, run_id: str) -> None:
        self.events.append((kind, run_id))
        self.hook(kind, run_id)

    def statuses(self, runs: Sequence[Run]) -> list[str]:
        return [self.outcomes[run.id].status if run.id in self.outcomes else "-" for run in runs]

    def index(self, kind: str, run: Run) -> int:
        return self.events.index((kind, run.id))


@pytest.fixture(scope="package")
def ray_session() -> Iterator[None]:
    """One Ray session with two CPUs and four GPUs, whether they are there or not, for all tests of this folder."""
    from cluster.session import Session

    session = Session(num_cpus=2, num_gpus=4)
    yield
    session.close()


@pytest.fixture(scope="module", params=["local", "tune"])
def make_backend(request: pytest.FixtureRequest) -> Iterator[MakeBackend]:
    """Return what makes a fresh backend; all are closed in the end."""
    made: list[Backend] = []

    def make() -> Backend:
        if request.param == "local":
            made.append(LocalBackend())
        else:
            from cluster.tune import TuneBackend

            request.getfixturevalue("ray_session")
            made.append(TuneBackend())
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that does not exist yet, in a folder whose name has a space in it."""
    return Store(tmp_path / "my runs")


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """A file in which each execution leaves a line."""
    return str(tmp_path / "ledger.txt")
