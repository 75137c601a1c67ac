"""Nodes that do not see the store, or run other code: real raylets with mounts of their own (root only)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.probe import build, look
from tests.disks import needs_mounts

ROOT = Path(__file__).parents[2]


def drive(how: str, store: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.cluster.probed", how, str(store)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["left"] == []
    return found


@needs_mounts
@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("elsewhere", "does not see the store"),
        ("readonly", "cannot write to (Read-only file system) the store"),
        ("newer", "runs other code (source "),
    ],
)
def test_a_node_that_cannot_take_part_is_named_before_anything_runs(tmp_path: Path, how: str, words: str) -> None:
    found = drive(how, tmp_path / "runs")
    assert words in found["refused"]
    assert found["refused"].startswith("node ")
    assert str(tmp_path / "runs") in found["refused"] or how == "newer"
    assert "\n" not in found["refused"]
    assert found["begun"] == 0


@needs_mounts
@pytest.mark.slow
def test_a_node_that_joins_later_and_cannot_take_part_is_told_and_does_not_count(tmp_path: Path) -> None:
    found = drive("late", tmp_path / "runs")
    assert found["statuses"] == ["done"]
    assert len(found["told"]) == 1
    assert "left out: node " in found["told"][0]


def test_what_must_be_equal_everywhere_is_known_without_heavy_imports() -> None:
    code = "import sys; from cluster.probe import build; print(sorted(build())); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == str(sorted(build()))
    assert {"python", "source", "ray", "torch", "transformers", "peft"} <= build().keys()
    assert not any("+" in version for version in build().values()), "a build for CPUs and one for CUDA may meet"


def test_the_marker_of_another_folder_is_not_ours(tmp_path: Path) -> None:
    assert look(tmp_path / "none", "1", "a").trouble == "does not see"
    (tmp_path / "marker").write_text("2")
    assert look(tmp_path, "1", "a").trouble == "sees another folder in the place of"
    assert not (tmp_path / "a").exists()
    assert look(tmp_path, "2", "a").trouble == ""
    assert (tmp_path / "a").is_file()
