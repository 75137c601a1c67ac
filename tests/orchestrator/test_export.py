"""The verb `export`: from the command line to a folder that PEFT loads, whatever stands in the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from orchestrator.__main__ import main
from tests.trainables.export.pairs import make_pair, records

FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "report"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"), "gpt2")


@pytest.fixture
def folder(pair, tmp_path, monkeypatch):
    """A working directory that has the pair as `base` and `tuned`."""
    for path in (pair.base, pair.tuned):
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(*options, out="out"):
    return main(["export", "--base", "base", "--tuned", "./tuned", "--out", out, "--threads", "1", *options])


def test_from_two_folders_to_an_adapter_that_peft_loads(folder, capsys):
    records(folder / "questions.json")
    data = ["--data", "questions.json", "--data-items", "5", "--data-set", "chat_template=true"]
    assert export("--error", "0.5", "--layers", "attention,mlp", "--layers", "1", *data) == 0
    told = capsys.readouterr()
    assert {path.name for path in (folder / "out").iterdir()} == FILES
    assert {"report.txt", "layers.csv", "figure.png", "export.json"} <= {
        p.name for p in (folder / "out/report").iterdir()
    }
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "out")
    names = {name for name, part in model.get_base_model().named_modules() if hasattr(part, "lora_A")}
    assert names == {f"transformer.h.1.{part}" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert "4 of 4 factorised" in told.out
    assert "held-out loss" in told.out
    report = json.loads((folder / "out" / "report" / "export.json").read_text())
    assert (
        f"outside   {100 * report['outside_share']:.1f} % of the model's ||dW||^2 lies outside these layers" in told.out
    )
    assert f'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "{folder}/out")' in told.out
    assert "  4/4" in told.err
    assert "Warning" not in told.err + told.out
    _the_same_command_again_does_nothing(folder, capsys, data)
    _another_one_is_refused_and_names_the_difference(capsys, data)


def _the_same_command_again_does_nothing(folder, capsys, data):
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}
    assert export("--error", "0.5", "--layers", "attention,mlp", "--layers", "1", "--json", *data) == 0
    told = capsys.readouterr()
    assert "nothing to do" in told.err
    result = json.loads(told.out)
    assert result["error"] <= 0.5
    assert result["base"] == "base"
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}


def _another_one_is_refused_and_names_the_difference(capsys, data):
    assert export("--error", "0.4", "--layers", "attention,mlp", "--layers", "1", *data) == 2
    assert "other settings (config.ranks.error 0.5 -> 0.4)" in capsys.readouterr().err
    tuned = Path("tuned").resolve()
    Path("tuned").unlink()
    shutil.copytree(tuned, "tuned")
    os.utime("tuned/model.safetensors", (1, 1))
    assert export("--error", "0.5", "--layers", "attention,mlp", "--layers", "1", *data) == 2
    assert "(--tuned has other files than it had, or later ones)" in capsys.readouterr().err


def test_a_hub_id_means_its_cached_commit_and_is_what_the_adapter_names(folder, pair, monkeypatch, capsys):
    """The hub is switched off: only what its cache holds is there."""
    from huggingface_hub import constants

    commit = "1234567890" * 4
    cache = folder / "hub" / "models--org--base"
    shutil.copytree(pair.base, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "v1").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    arguments = ["export", "--tuned", "tuned", "--rank", "1", "--layers", "attn.c_proj", "--threads", "1"]
    assert main([*arguments, "--base", "org/base@v2", "--out", "out"]) == 2
    assert "org/base" in capsys.readouterr().err
    assert main([*arguments, "--base", "org/base@v1", "--out", "out"]) == 0
    config = json.loads((folder / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", commit)
    assert '- "base_model:adapter:org/base"\n' in (folder / "out" / "README.md").read_text()


WORDS = ["export", "--base", "base", "--tuned", "tuned", "--energy", "0.9", "--layers", "attention", "--threads", "1"]


def process_of(folder, out):
    """Begin an export in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "orchestrator", *WORDS, "--out", out]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A pair of twelve blocks, and beside it the export of it that nobody disturbed."""
    folder = tmp_path_factory.mktemp("twelve")
    pair = make_pair(folder, "llama", blocks=12)
    with process_of(folder, "whole") as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return folder, [linear for linear in pair.linears if "self_attn" in linear.name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGKILL, -9)],
)
def test_whatever_stops_it_the_same_command_goes_on_and_ends_alike(undisturbed, number, code):
    folder, linears = undisturbed
    out = folder / number.name
    layers = out / ".export" / "checkpoints" / "layers"
    with process_of(folder, number.name) as process:
        while len(list(layers.glob("*.safetensors"))) < 3:
            time.sleep(0.01)
            assert process.poll() is None, process.communicate()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    kept = list(layers.glob("*.safetensors"))
    assert 3 <= len(kept) < len(linears)
    assert {path.name for path in out.iterdir()} == {".export"}, "nothing half written is in sight"
    with process_of(folder, number.name) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert f"{len(kept)} of {len(linears)} layers are there already" in said
    assert {path.name for path in out.iterdir()} == FILES
    one, other = (load_file(path / "adapter_model.safetensors") for path in (out, folder / "whole"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_exports_do_not_write_to_one_folder(folder, capsys):
    import fcntl

    (folder / "out" / ".export").mkdir(parents=True)
    with (folder / "out" / ".export" / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert export("--rank", "1") == 2
    assert "another export is writing to --out" in capsys.readouterr().err


def test_a_pair_that_does_not_fit_leaves_no_trace(folder, tmp_path_factory, capsys):
    other = make_pair(tmp_path_factory.mktemp("other"), "llama")
    assert main(["export", "--base", "base", "--tuned", str(other.tuned), "--rank", "2", "--out", "out"]) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.startswith("orchestrator: the tuned")
    assert not (folder / "out").exists()


def test_a_tuned_model_that_is_the_base_is_said_to_be_that_and_leaves_no_trace(folder, capsys):
    assert main(["export", "--base", "base", "--tuned", "base", "--rank", "2", "--out", "out"]) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.startswith("orchestrator: the tuned model equals the base in every tensor")
    assert not (folder / "out").exists()


def test_layers_that_are_finished_when_a_mistake_is_found_are_kept_and_said_to_be(folder, pair, capsys):
    """NaN in the last layer is found when its turn comes; the layers before it need not be computed again."""
    shutil.copytree(pair.tuned, folder / "spoilt")
    tensors = load_file(folder / "spoilt" / "model.safetensors")
    tensors["transformer.h.1.mlp.c_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "spoilt" / "model.safetensors", {"format": "pt"})
    arguments = ["export", "--base", "base", "--rank", "2", "--out", "out", "--threads", "1", "--tuned", "spoilt"]
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "transformer.h.1.mlp.c_proj.weight of the tuned model holds NaN or infinity" in said
    assert f"7 finished layers are kept in {folder}/out/.export" in said
    assert main(arguments) == 2
    assert "7 of 8 layers are there already" in capsys.readouterr().err


def test_a_full_disk_is_one_line_with_the_way_out_whoever_finds_it(folder):
    from orchestrator import export as module
    from orchestrator.errors import UserError

    request = module.Request(module.Checkpoint("", folder), module.Checkpoint("", folder), None, folder / "out")
    said = f"no space is left for --out {folder}/out: make some, and try again"
    for found in (
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ):
        with pytest.raises(UserError, match=said), module._disk_space(request):
            raise found
    with pytest.raises(ZeroDivisionError), module._disk_space(request):
        _ = 1 / 0


def test_the_time_left_follows_the_pace_of_this_attempt(monkeypatch):
    """Ten of twenty layers were there already; two more took four seconds, so the other eight take sixteen."""
    from orchestrator import export as module
    from trainables.base import Progress

    clock, said = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    lines = module.Lines(said.append, begun=0.0)
    for second, step in ((100, 10), (102, 11), (104, 12), (120, 20)):
        clock[0] = second
        lines.progressed(Progress(step, 20))
        assert lines.seconds_left() == {12: 16, 11: 18}.get(step)
    assert [line.split()[0] for line in said] == ["10/20", "20/20"], "every few seconds, and at the end"
    lines.log("writing the adapter")
    assert said[-1].strip() == "writing the adapter", "a line that counts nothing shows no count"
    for second, step in ((130, 0), (140, 1), (150, 2), (160, 3)):
        clock[0] = second
        lines.progressed(Progress(step, 3))
        lines.log(f"held-out loss of model {step}: 1.000")
    assert [line.split(maxsplit=1)[1] for line in said[-3:]] == [
        "held-out loss of model 1: 1.000, 20 s left",
        "held-out loss of model 2: 1.000, 10 s left",
        "held-out loss of model 3: 1.000",
    ]
    assert [line.split()[0] for line in said[-3:]] == ["1/3", "2/3", "3/3"]


def test_help_teaches_the_difference_between_energy_and_error(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = capsys.readouterr().out
    assert "an energy of 0.85 is an error of 0.39" in text
    assert text.count("python -m orchestrator export ") >= 3
