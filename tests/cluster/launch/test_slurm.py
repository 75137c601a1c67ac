"""The Slurm script without Slurm: `srun`, `scontrol` and `ray` stand on PATH and note what they are told.

`srun` executes the task once, as for a job of one node; `ray symmetric-run` executes the driver, as on the head. The
driver is a `python` that waits for SIGUSR1 and leaves as ours does, or ends at once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "cluster" / "launch" / "slurm.sh"

NOTE = f"""#!{sys.executable}
import json, os, signal, stat, subprocess, sys, time
from pathlib import Path
notes = Path(os.environ["NOTES"])

def note(name, **more):
    beside = notes / f"{{name}}.tmp"
    beside.write_text(json.dumps({{"words": sys.argv[1:], **more}}))
    beside.replace(notes / f"{{name}}.json")

"""

SRUN = """
note("srun")
task = subprocess.Popen(sys.argv[sys.argv.index("bash"):], start_new_session=True)
signal.signal(signal.SIGTERM, lambda number, frame: os.killpg(task.pid, number))  # as Slurm does
sys.exit(task.wait() % 256)
"""

RAY = """
token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
note("ray", mode=stat.S_IMODE(token.stat().st_mode), token=token.read_text(), environment=dict(os.environ))
if "RAY_NEVER_STARTS" in os.environ:
    time.sleep(60)
separator = sys.argv.index("--")
sys.exit(subprocess.call(sys.argv[separator + 1:]))
"""

DRIVER = """
signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(int(os.environ["DRIVER"])))
note("driver")
if "DRIVER_WAITS" in os.environ:
    time.sleep(60)
sys.exit(int(os.environ["DRIVER"]))
"""

SCONTROL = 'note("scontrol")\n'


@dataclass
class Job:
    """The script as a job, and what the programs around it noted."""

    process: subprocess.Popen[str]
    notes: Path
    home: Path
    said: str = field(default="", init=False)

    def note(self, name: str) -> dict:
        return json.loads((self.notes / f"{name}.json").read_text())

    def has(self, name: str) -> bool:
        return (self.notes / f"{name}.json").exists()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)

    def end(self) -> int:
        self.said, _ = self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def local() -> Iterator[Path]:
    """A folder on the node's own disk with a name short enough for Ray's sockets; pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="n", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def submit(tmp_path: Path, local: Path):
    programs, notes, home = (tmp_path / name for name in ("bin", "notes", "my home"))
    for folder in (programs, notes, home):
        folder.mkdir()
    for name, code in {"srun": SRUN, "ray": RAY, "python": DRIVER, "scontrol": SCONTROL}.items():
        (programs / name).write_text(NOTE + code)
        (programs / name).chmod(0o755)
    jobs = []

    def start(*words: str, **environment: str) -> Job:
        about = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(home),
            "NOTES": str(notes),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_ON_NODE": "3",
            "SWEEP_LOCAL_FOLDER": str(local),
            "DRIVER": "0",
        }
        process = subprocess.Popen(
            ["bash", str(SCRIPT), *words],
            env={**about, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        jobs.append(process)
        return Job(process, notes, home)

    yield start
    for process in jobs:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_script_passes_shellcheck() -> None:
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, "pip install -e '.[test]' brings it"
    done = subprocess.run([program, "--enable=quote-safe-variables", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_word_reaches_the_driver_as_it_was_written(submit) -> None:
    words = ["sweep", "rank_study", "--store", "my runs/é", "--set", "dataset.source=a file.json", "", "$HOME `x` 'y'"]
    job = submit(*words, SWEEP_HEAD_IP="10.1.2.3")
    assert job.end() == 0, job.said
    assert job.note("driver")["words"] == ["-m", "orchestrator", *words, "--address", "10.1.2.3:24711"]


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_a_sweep_that_has_ended_is_not_queued_again_and_its_exit_code_is_the_jobs(submit, code: int) -> None:
    job = submit("sweep", "smoke", DRIVER=str(code))
    assert job.end() == code
    assert not job.has("scontrol")


@pytest.mark.parametrize(("code", "is_queued"), [(138, True), (0, False), (1, False)])
def test_at_the_time_limit_the_driver_is_told_and_what_it_has_not_ended_is_queued_again(
    submit, code, is_queued
) -> None:
    job = submit("sweep", "smoke", DRIVER=str(code), DRIVER_WAITS="1")
    job.wait_for(lambda: job.has("driver") and (job.home / ".ray" / "slurm-4711" / "driver.pid").exists())
    job.process.send_signal(signal.SIGUSR1)
    assert job.end() == code, job.said
    assert job.has("scontrol") == is_queued
    if is_queued:
        assert job.note("scontrol")["words"] == ["requeue", "4711"]


def test_a_time_limit_before_the_driver_has_begun_queues_the_job_again(submit) -> None:
    job = submit("sweep", "smoke", RAY_NEVER_STARTS="1")
    job.wait_for(lambda: job.has("ray"))
    job.process.send_signal(signal.SIGUSR1)
    assert job.end() != 0
    assert job.note("scontrol")["words"] == ["requeue", "4711"]


def test_the_cluster_asks_for_a_token_that_is_the_jobs_own_and_goes_with_it(submit) -> None:
    job = submit("sweep", "smoke")
    assert job.end() == 0
    ray = job.note("ray")
    assert ray["mode"] == stat.S_IRUSR | stat.S_IWUSR
    assert len(ray["token"]) == 64
    assert ray["environment"]["RAY_AUTH_MODE"] == "token"
    assert "--dashboard-host=127.0.0.1" in ray["words"]
    assert not (job.home / ".ray" / "slurm-4711").exists()


def test_the_job_removes_its_own_folders_and_nothing_beside_them(submit, tmp_path: Path, local: Path) -> None:
    beside = [tmp_path / "shared" / "mine.txt", local / "mine.txt"]
    for path in beside:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    job = submit("sweep", "smoke", SWEEP_SHARED_FOLDER=str(beside[0].parent), SWEEP_LOCAL_FOLDER=str(beside[1].parent))
    assert job.end() == 0
    ray = job.note("ray")["environment"]
    assert ray["RAY_AUTH_TOKEN_PATH"] == str(beside[0].parent / "slurm-4711" / "token")
    assert ray["RAY_TMPDIR"] == str(beside[1].parent / "ray-4711")
    assert [list(path.parent.iterdir()) for path in beside] == [[path] for path in beside]


@pytest.mark.parametrize(
    ("folder", "fits"), [(f"/tmp/{'n' * 23}", True), (f"/tmp/{'n' * 24}", False), ("/tmp/äääääääääääää", False)]
)
def test_a_local_folder_whose_sockets_would_have_too_long_paths_is_refused_in_a_line(submit, folder: str, fits) -> None:
    job = submit("sweep", "smoke", SWEEP_LOCAL_FOLDER=folder)
    assert job.end() == (0 if fits else 2), job.said
    if fits:
        assert len(os.fsencode(job.note("ray")["environment"]["RAY_TMPDIR"])) == 37
        Path(folder).rmdir()
        return
    assert job.said.count("\n") == 1
    assert f"{folder}/ray-4711 has " in job.said
    assert "SWEEP_LOCAL_FOLDER" in job.said
    assert not job.has("srun")
    assert not (job.home / ".ray").exists()


def test_the_longest_folder_leaves_room_for_the_longest_path_of_rays_sockets() -> None:
    most = int(re.search(r"^most=(\d+)$", SCRIPT.read_text(), re.MULTILINE)[1])
    session = "ray/session_2026-11-22_15-20-43_095537_4194304/sockets/plasma_store.1"
    assert most + len("/") + len(session) <= 107


def test_compute_nodes_ask_no_hub_and_wait_long_for_each_other(submit) -> None:
    job = submit("sweep", "smoke")
    assert job.end() == 0
    environment = job.note("ray")["environment"]
    assert {environment[name] for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")} == {"1"}
    assert int(environment["RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"]) == 600


def test_each_node_has_one_task_with_all_its_cpus(submit) -> None:
    job = submit("sweep", "smoke", SLURM_JOB_NUM_NODES="4", SWEEP_HEAD_IP="10.1.2.3")
    assert job.end() == 0
    srun, ray = job.note("srun")["words"], job.note("ray")["words"]
    assert {"--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=3"} <= set(srun)
    assert ray[: ray.index("--")][:6] == [
        "symmetric-run",
        "--address",
        "10.1.2.3:24711",
        "--min-nodes",
        "4",
        "--num-cpus=3",
    ]


def test_ray_takes_the_options_that_the_script_gives_it(submit) -> None:
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    job = submit("sweep", "smoke")
    assert job.end() == 0
    words = job.note("ray")["words"]
    start = curate_and_validate_ray_start_args(words[1 : words.index("--")])
    from ray.scripts.scripts import start as ray_start

    for role in (["--head"], ["--address", "10.1.2.3:1"]):
        ray_start.make_context("start", [*role, *start])


def test_the_script_by_itself_says_how_it_is_used(submit) -> None:
    for job in (submit(), submit("sweep", "smoke", SLURM_JOB_ID="")):
        assert job.end() == 2
        assert "sbatch slurm.sh sweep STUDY" in job.said


def test_the_options_of_the_job_are_those_that_the_sweep_relies_on() -> None:
    options = {line.removeprefix("#SBATCH ") for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")}
    assert {"--exclusive", "--requeue", "--signal=B:USR1@300", "--ntasks-per-node=1", "--open-mode=append"} <= options
