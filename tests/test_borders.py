"""What a command really imports: import-linter holds the direct imports, a process tells the whole truth (C6)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "peft", "deepspeed", "datasets", "ray", "mlflow", "optuna", "reasoning_gym"}
PLOTTING = {"matplotlib", "pandas", "scipy"}

CODE = """
import contextlib, io, json, sys
from orchestrator.__main__ import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    try:
        code = main(sys.argv[1:])
    except SystemExit as leave:
        code = leave.code
print(json.dumps([code, sorted({name.partition('.')[0] for name in sys.modules})]))
"""


def run(arguments, folder):
    """Return the exit code of a command in a process of its own, and the top-level modules that it imported."""
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    code, modules = json.loads(done.stdout)
    return code, set(modules)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], 0),
        (["sweep", "--help"], 0),
        (["export", "--help"], 0),
        (["export", "--base", "a", "--tuned", "b", "--out", "c", "--rank", "4"], 2),
        (["export", "--base", "a", "--tuned", "b", "--out", "c", "--energy", "90"], 2),
        (["list"], 0),
        (["compare", "--help"], 0),
        (["compare", "no.csv", *["--arm", "init", "--baseline", "random", "--pair", "seed", "--metric", "loss"]], 2),
        (["plan", "rank_study"], 0),
        (["plan", "rank_study", "--scale", "qwen2.5-math-7b", "--set", "base_model.revision=" + "0" * 40], 0),
        (["status"], 0),
        (["status", "rank_study"], 0),
        (["report", "rank_study"], 2),
        (["show", "svd r16 s2"], 2),
        (["store", "verify"], 2),
        (["sweep", "rank_stdy"], 2),
    ],
)
def test_a_command_that_runs_nothing_imports_neither_models_nor_ray_nor_trackers(tmp_path, arguments, expected):
    code, modules = run(arguments, tmp_path)
    assert code == expected
    assert modules & (HEAVY | PLOTTING) == set()
    assert list(tmp_path.iterdir()) == [], "looking creates nothing"


def test_the_check_itself_sees_an_import():
    """The same process, told to import a heavy module, must be caught: otherwise the tests above cannot fail."""
    done = subprocess.run(
        [sys.executable, "-c", f"import pandas\nimport sys\nprint({HEAVY | PLOTTING!r} & set(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pandas" in done.stdout
