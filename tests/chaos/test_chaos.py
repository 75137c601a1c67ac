"""A few of the kills that `python -m tests.chaos` makes by the dozen; and what its parts promise."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.__main__ import Chaos
from tests.chaos.kills import MOMENTS, VICTIMS, draw
from tests.chaos.processes import alive, family
from tests.chaos.watch import Watch


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_six_random_kills_change_nothing(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, seed=3)
    chaos.run(6)
    assert chaos.wrong == []
    assert len(chaos.done) == 6


def test_the_seed_decides_whom_to_kill_and_when() -> None:
    one, other = ([draw(chance, 9.0) for _ in range(200)] for chance in (random.Random(5), random.Random(5)))
    assert one == other
    assert {kill.victim for kill in one} == set(VICTIMS)
    assert {kill.moment for kill in one} == set(MOMENTS)


def test_names_are_told_as_they_appear_in_folders_that_appear(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    try:
        (tmp_path / "a" / "b").mkdir(parents=True)
        told = [event.path for event in watch.events(5.0)]
        assert told[:2] == [tmp_path / "a", tmp_path / "a" / "b"]
        (tmp_path / "a" / "b" / ".step-1").mkdir()
        (tmp_path / "a" / "b" / ".step-1").rename(tmp_path / "a" / "b" / "step-1")
        events = list(watch.events(5.0))
        assert [(event.path.name, event.moved) for event in events] == [(".step-1", False), ("step-1", True)]
        assert list(watch.events(0.0)) == []
    finally:
        watch.close()


def test_a_family_is_a_process_and_its_descendants_and_nobody_else() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        members = family(process.pid)
        assert next(one.pid for one in members) == process.pid
        assert len(members) == 2
        assert os.getpid() not in {one.pid for one in members}
        process.communicate(b"\n")
    assert alive(set(members)) == []
