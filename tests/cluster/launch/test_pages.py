"""The commands on the pages are commands of ours, with options that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from orchestrator.cli import parse

LAUNCH = Path(__file__).parents[3] / "cluster" / "launch"
OURS = re.compile(r"(?:-m orchestrator|slurm\.sh) +([a-z][^'`\n]*)")


@pytest.mark.parametrize("page", sorted(path.name for path in LAUNCH.glob("*.md")))
def test_the_commands_of_a_page_are_ours(page: str) -> None:
    found = OURS.findall((LAUNCH / page).read_text().replace("\\\n", " "))
    assert found
    for words in found:
        parse(shlex.split(words))


def test_each_way_to_launch_has_its_page() -> None:
    assert {path.stem for path in LAUNCH.glob("*.md")} == {"kuberay", "ray_up", "slurm"}
