"""The export on three families of tiny models: what is written, what is refused, what it says of what it left out."""

from __future__ import annotations

import csv
import functools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from cluster.ending import make_provenance, make_record
from cluster.local import LocalBackend
from orchestrator.plan import Run
from orchestrator.store import Store
from tests.cluster.conftest import Memory
from tests.trainables.driver import Driven, drive, execute
from tests.trainables.export.tuned import changed, teacher
from tests.trainables.tiny_models import FAMILIES, base_model
from trainables import find
from trainables.base import InputError, Place, Stopped
from trainables.export.attempt import LAYERS
from trainables.linalg.factors import load_factors
from trainables.svd_export import ROLES, SvdExportConfig

FULL = 64


@functools.cache
def export(family: str) -> tuple[Path, Driven]:
    """The full-rank export of that teacher."""
    folder = Path(tempfile.mkdtemp()) / "export"
    return folder, execute("svd_export", {"rank": FULL}, folder, inputs=inputs(family))


def inputs(family: str, tuned: Path | None = None) -> dict[str, Path]:
    return {"base_model": base_model(family), "teacher": tuned or teacher(family)}


@pytest.mark.parametrize("family", FAMILIES)
def test_full_rank_factors_turn_the_base_into_the_teacher(family):
    folder, _ = export(family)
    base = dict(AutoModelForCausalLM.from_pretrained(base_model(family)).named_modules())
    tuned = dict(AutoModelForCausalLM.from_pretrained(teacher(family)).named_modules())
    factors = load_factors(folder)
    assert len(factors) == (8 if family == "gpt2" else 14)
    for name, found in factors.items():
        delta = found.delta().T if isinstance(base[name], Conv1D) else found.delta()
        assert torch.allclose(base[name].weight + delta, tuned[name].weight, atol=1e-5), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_metrics_follow_from_the_two_checkpoints(family):
    folder, driven = export(family)
    base = {
        n: p.detach().double() for n, p in AutoModelForCausalLM.from_pretrained(base_model(family)).named_parameters()
    }
    tuned = AutoModelForCausalLM.from_pretrained(teacher(family)).named_parameters()
    delta = {name: tensor.detach().double() - base[name] for name, tensor in tuned}
    targets = [f"{name}.weight" for name in load_factors(folder)]
    squares = {name: float(tensor.square().sum()) for name, tensor in delta.items()}
    inside = sum(squares[name] for name in targets)
    assert driven.metrics["outside_share"] == pytest.approx(1 - inside / sum(squares.values()), rel=1e-6)
    assert driven.metrics["delta_norm"] == pytest.approx(inside**0.5, rel=1e-6)
    weights = sum(float(base[name].square().sum()) for name in targets)
    assert driven.metrics["relative_delta"] == pytest.approx((inside / weights) ** 0.5, rel=1e-6)
    kept = sum(float(torch.linalg.svdvals(delta[name])[:4].square().sum()) for name in targets)
    assert driven.metrics["energy_4"] == pytest.approx(kept / inside, rel=1e-5)
    assert driven.metrics["error_4"] == pytest.approx((1 - kept / inside) ** 0.5, rel=1e-5)
    shares = json.loads((folder / "export.json").read_text())["excluded"]
    assert set(shares) == set(delta) - set(targets)
    for name, share in shares.items():
        assert share == pytest.approx(squares[name] / sum(squares.values()), rel=1e-5), name


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_text_and_figure_describe_every_layer(family):
    folder, driven = export(family)
    layers = list(csv.DictReader((folder / "layers.csv").open()))
    spectrum = list(csv.DictReader((folder / "spectrum.csv").open()))
    assert sorted(row["layer"] for row in layers) == sorted(load_factors(folder))
    assert {int(row["depth"]) for row in layers} == {0, 1}
    for row in layers:
        smallest = min(int(row["out"]), int(row["in"]))
        sigma = [float(line["sigma"]) for line in spectrum if line["layer"] == row["layer"]]
        assert len(sigma) == min(FULL, smallest)
        assert sum(value**2 for value in sigma[:2]) / float(row["delta_norm"]) ** 2 == pytest.approx(
            float(row["energy_2"]), abs=1e-6
        )
        assert float(row["energy_64"]) == pytest.approx(1, abs=1e-6)
    text = (folder / "report.txt").read_text()
    assert all(row["type"] in text for row in layers)
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert [progress.step for progress in driven.progress] == list(range(len(layers) + 1))
    assert driven.progress[-1].total == len(layers)


def test_a_lower_rank_is_the_beginning_of_a_higher_one(tmp_path):
    drive("svd_export", {"rank": 4}, tmp_path / "few", inputs=inputs("qwen2"))
    few, all_of_them = load_factors(tmp_path / "few"), load_factors(export("qwen2")[0])
    for name in few:
        assert torch.allclose(few[name].delta(), all_of_them[name].truncated(4).delta(), atol=1e-6)


def test_only_the_named_layers_are_factorised_and_the_rest_counts_as_outside(tmp_path):
    config = {"rank": 8, "target_modules": ["q_proj", "layers.1.mlp.up_proj"]}
    metrics = drive("svd_export", config, tmp_path / "export", inputs=inputs("llama"))
    assert {name.rpartition("layers.")[2] for name in load_factors(tmp_path / "export")} == {
        "0.self_attn.q_proj",
        "1.self_attn.q_proj",
        "1.mlp.up_proj",
    }
    assert metrics["outside_share"] > export("llama")[1].metrics["outside_share"]


def test_a_teacher_that_did_not_move_gives_zero_factors(tmp_path):
    metrics = drive("svd_export", {"rank": 4}, tmp_path / "export", inputs=inputs("gpt2", base_model("gpt2")))
    assert (metrics["delta_norm"], metrics["outside_share"], metrics["energy_4"]) == (0, 0, 1)
    for factors in load_factors(tmp_path / "export").values():
        assert not factors.delta().any()
        assert torch.allclose(factors.vt @ factors.vt.T, torch.eye(4), atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path, bad):
    def spoil(name, tensor):
        spoilt = tensor.clone()
        if name.endswith("1.mlp.up_proj.weight"):
            spoilt[0, 0] = bad
        return spoilt

    tuned = changed("qwen2", tmp_path / "teacher", spoil)
    with pytest.raises(
        InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight of the teacher holds NaN or infinity"
    ):
        drive("svd_export", {}, tmp_path / "export", inputs=inputs("qwen2", tuned))
    assert not (tmp_path / "export" / "factors.safetensors").exists()


def test_checkpoints_that_differ_in_shape_names_or_kind_are_refused_before_any_work(tmp_path):
    def wider(name, tensor):
        return torch.cat([tensor, tensor[:3]]) if "embed_tokens" in name or "lm_head" in name else tensor

    tuned = changed("qwen2", tmp_path / "wider", wider)
    with pytest.raises(InputError, match="vocabulary sizes differ"):
        drive("svd_export", {}, tmp_path / "a", inputs=inputs("qwen2", tuned))
    with pytest.raises(InputError, match="the teacher is no checkpoint of the base model"):
        drive("svd_export", {}, tmp_path / "b", inputs=inputs("qwen2", teacher("gpt2")))
    whole = changed("qwen2", tmp_path / "whole", lambda name, tensor: tensor.to(torch.int32))
    with pytest.raises(InputError, match="stored as I32: give a checkpoint that is not quantised"):
        drive("svd_export", {}, tmp_path / "c", inputs=inputs("qwen2", whole))
    scattered = changed("qwen2", tmp_path / "zero", lambda name, tensor: torch.empty(0))
    with pytest.raises(InputError, match=r"the teacher holds no values in .*DeepSpeed ZeRO-3"):
        drive("svd_export", {}, tmp_path / "d", inputs=inputs("qwen2", scattered))
    assert not list(tmp_path.glob("?/*"))


def test_a_head_that_the_teacher_unties_is_refused(tmp_path):
    tuned = changed("llama", tmp_path / "teacher", lambda name, tensor: tensor)
    tensors = load_file(tuned / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, tuned / "model.safetensors")
    with pytest.raises(InputError, match=r"unties lm_head\.weight from model\.embed_tokens\.weight"):
        drive("svd_export", {"rank": 2}, tmp_path / "export", inputs=inputs("llama", tuned))


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_prefixes_and_dtypes_make_no_difference(tmp_path, family):
    """A sharded teacher in mixed dtypes and without the inner model's prefix, against the plain one."""
    half = changed(family, tmp_path / "half", lambda _, tensor: tensor.bfloat16().float())
    tuned = tmp_path / "sharded"
    shutil.copytree(half, tuned)
    tensors = load_file(tuned / "model.safetensors")
    (tuned / "model.safetensors").unlink()
    prefix = "transformer." if family == "gpt2" else "model."
    names = sorted(tensors, reverse=True)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    weight_map = {}
    for file, members in shards.items():
        dtype = torch.bfloat16 if file.startswith("model-00001") else torch.float32
        save_file({name.removeprefix(prefix): tensors[name].to(dtype) for name in members}, tuned / file)
        weight_map |= {name.removeprefix(prefix): file for name in members}
    (tuned / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    one = drive("svd_export", {"rank": 4}, tmp_path / "one", inputs=inputs(family, half))
    other = drive("svd_export", {"rank": 4}, tmp_path / "other", inputs=inputs(family, tuned))
    assert one == other
    assert (tmp_path / "one/factors.safetensors").read_bytes() == (tmp_path / "other/factors.safetensors").read_bytes()
    assert "note: the teacher is stored in BF16, F32" in (tmp_path / "other" / "report.txt").read_text()
    assert "note" not in (tmp_path / "one" / "report.txt").read_text()


def cut(folder: Path, resume_from: Path | None, stop_after: int, place: Place | None = None) -> Path:
    """Run an export until a stop is requested, and return the checkpoint it leaves, as a store would find it."""
    options = {"inputs": inputs("qwen2"), "resume_from": resume_from, "stop_after": stop_after, "place": place}
    with pytest.raises(Stopped):
        execute("svd_export", {"rank": FULL}, folder, **options)
    assert not list(folder.iterdir()), "an export that did not end wrote something"
    (checkpoint,) = folder.with_name(f"{folder.name}.checkpoints").glob("step-*")
    return checkpoint


def test_an_export_cut_off_twice_goes_on_where_it_stopped_and_ends_with_the_same_bytes(tmp_path):
    first = cut(tmp_path / "1", None, stop_after=4)
    second = cut(tmp_path / "2", first, stop_after=6, place=Place(cpus=2))
    assert first.name == "step-3"
    assert int(second.name.removeprefix("step-")) >= 8
    shutil.rmtree(first.parent)  # an earlier attempt's folder may be gone
    driven = execute("svd_export", {"rank": FULL}, tmp_path / "3", inputs=inputs("qwen2"), resume_from=second)
    kept = int(second.name.removeprefix("step-"))
    assert [progress.step for progress in driven.progress] == list(range(kept, 15))
    assert f"{kept} of 14 layers are there already" in driven.lines
    folder, whole = export("qwen2")
    assert driven.metrics == whole.metrics
    for name in ("factors.safetensors", "layers.csv", "spectrum.csv", "report.txt", "export.json"):
        assert (tmp_path / "3" / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_layer_damaged_between_two_attempts_is_computed_again(tmp_path):
    checkpoint = cut(tmp_path / "1", None, stop_after=6)
    path = sorted((checkpoint.parent / LAYERS).iterdir())[0]
    path.write_bytes(path.read_bytes()[:100])
    driven = execute("svd_export", {"rank": FULL}, tmp_path / "2", inputs=inputs("qwen2"), resume_from=checkpoint)
    assert (checkpoint.name, driven.progress[0].step) == ("step-5", 4)
    factors = [(folder / "factors.safetensors").read_bytes() for folder in (tmp_path / "2", export("qwen2")[0])]
    assert factors[0] == factors[1]


@pytest.mark.slow
def test_an_export_killed_in_the_middle_keeps_every_layer_that_it_had_finished(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.trainables.driver import execute\n"
        "base, tuned, folder = map(Path, sys.argv[1:])\n"
        "def kill(progress): progress.step == 5 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "inputs = {'base_model': base, 'teacher': tuned}\n"
        f"execute('svd_export', {{'rank': {FULL}}}, folder, inputs=inputs, on_progress=kill)"
    )
    command = [sys.executable, "-c", code, *map(str, [*inputs("qwen2").values(), tmp_path / "1"])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL, done.stderr
    checkpoint = tmp_path / "1.checkpoints" / "step-5"
    driven = execute("svd_export", {"rank": FULL}, tmp_path / "2", inputs=inputs("qwen2"), resume_from=checkpoint)
    assert [progress.step for progress in driven.progress] == list(range(5, 15))
    assert driven.metrics == export("qwen2")[1].metrics


def test_a_stopped_export_goes_on_through_a_store_and_a_backend(tmp_path):
    """What the driver above stands for: attempts, the newest checkpoint, a commit that leaves no layers behind."""
    store = Store(tmp_path / "runs")
    roles = {role: keep(store, f"{role}-{index:012x}", inputs("qwen2")[role]) for index, role in enumerate(ROLES)}
    trainable = find("svd_export")
    run = Run(
        "svd_export-00000000000a", "svd_export", "svd_export", trainable.version, SvdExportConfig(), roles, Place()
    )
    backend = LocalBackend()

    def stop_at_five(kind: str, run_id: str) -> None:
        if kind == "progressed" and memory.steps[run_id][-1].step == 5:
            backend.stop()

    memory = Memory(hook=stop_at_five)
    backend.run([run], store, memory)
    assert memory.statuses([run]) == ["stopped"]
    assert store.last_checkpoint(run.id) == 5
    again = Memory()
    LocalBackend().run([run], store, again)
    assert again.statuses([run]) == ["done"]
    assert [progress.step for progress in again.steps[run.id]] == list(range(5, 15))
    artefact = store.artefact(run.id)
    assert (artefact / "factors.safetensors").read_bytes() == (export("qwen2")[0] / "factors.safetensors").read_bytes()
    assert not list(store.work.iterdir())
    assert not list(artefact.rglob(LAYERS))


def keep(store: Store, run_id: str, folder: Path) -> str:
    """Put a folder into a store as the artefact of a run; return the run's id."""
    attempt = store.begin(run_id)
    shutil.copytree(folder, attempt.output, dirs_exist_ok=True)
    stage = run_id.partition("-")[0]
    run = Run(run_id, stage, "svd_export", 1, SvdExportConfig(), {}, Place())
    store.commit(attempt, make_record(run, "done", {}, None, [], make_provenance(run, 1, 0.0, 0.0, "here")))
    return run_id


def test_metrics_say_how_sure_the_singular_values_are(tmp_path):
    _, driven = export("gpt2")
    routes = [driven.metrics[f"layers_{route}"] for route in ("zero", "golub_kahan", "gram", "exact")]
    assert sum(routes) == driven.metrics["layers"] == 8
    assert 0 <= driven.metrics["certified_bound"] <= 1e-4
    assert 0 <= driven.metrics["failure_probability"] < 1e-6
    unchanged = drive("svd_export", {"rank": 4}, tmp_path / "export", inputs=inputs("gpt2", base_model("gpt2")))
    assert (unchanged["layers_zero"], unchanged["certified_bound"]) == (8, 0)


def test_a_choice_of_layers_is_exported_and_counts_for_the_identity_only_where_one_is_made(tmp_path):
    config = {"rank": 4, "layers": [["attention"], ["1", "q_proj"]]}
    metrics = drive("svd_export", config, tmp_path / "export", inputs=inputs("llama"))
    last = {f"model.layers.1.self_attn.{name}_proj" for name in "qkvo"}
    assert set(load_factors(tmp_path / "export")) == {"model.layers.0.self_attn.q_proj", *last}
    assert metrics["layers"] == 5
    assert SvdExportConfig(layers=[]).identity() == {"rank": 64, "target_modules": "all-linear"}
    assert SvdExportConfig(layers=[["mlp"]]).identity()["layers"] == [["mlp"]]
    with pytest.raises(InputError, match="'atention' matches none of"):
        find("svd_export").check(SvdExportConfig(layers=[["atention"]]), inputs("llama"))


def test_planning_refuses_ranks_and_targets_that_no_layer_has():
    check = find("svd_export").check
    base = {"base_model": base_model("qwen2")}
    check(SvdExportConfig(rank=4096), {})
    check(SvdExportConfig(rank=64), base)
    with pytest.raises(
        InputError, match=r"svd_export rank 256, .* is above what any layer .*; use a student.rank of at most 64"
    ):
        check(SvdExportConfig(rank=256), base)
    with pytest.raises(InputError, match="'c_attn' matches no linear layer"):
        check(SvdExportConfig(target_modules=["c_attn"]), base)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        SvdExportConfig(rank=0)


def test_planning_an_export_and_an_evaluation_imports_no_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; import trainables\n"
        "inputs = {'base_model': Path(sys.argv[1]), 'teacher': Path(sys.argv[2])}\n"
        "for name in ('svd_export', 'evaluate'):\n"
        "    found = trainables.find(name); found.check(found.config(rank=4), inputs)\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'matplotlib', 'ray'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    command = [sys.executable, "-c", code, str(base_model("qwen2")), str(teacher("qwen2"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
