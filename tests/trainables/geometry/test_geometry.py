"""The geometry that evaluate reports, against dense weights: students, truncated teachers, whole models."""

from __future__ import annotations

import csv
import functools
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from tests.trainables.driver import execute
from tests.trainables.geometry.test_subspaces import dense_intruders
from tests.trainables.test_evaluate import FP32, dataset, export, teacher
from tests.trainables.tiny_models import FAMILIES, base_model
from trainables import find
from trainables.base import InputError, Stopped
from trainables.evaluate import EvaluateConfig
from trainables.training.models import block_linears, load_model

STUDENT = {"rank": 4, "steps": 3, "batch_size": 4, "eval_every": 3, "precision": "fp32", "learning_rate": 3e-2}
FEW = {**FP32, "items": 2, "max_new_tokens": 1, "geometry": True}


def given(family: str, **more: Path) -> dict[str, Path]:
    return {"base_model": base_model(family), "dataset": dataset(family), "teacher": teacher(family), **more}


@functools.cache
def student(family: str, init: str) -> Path:
    folder = Path(tempfile.mkdtemp()) / "student"
    settings = {**STUDENT, "init": init, "lora_alpha": 6.0}
    roles = find("student").needed_roles(find("student").config(init=init))
    inputs = given(family, svd_export=export(family))
    execute("student", settings, folder, inputs={role: inputs[role] for role in roles})
    return folder


def measured(family: str, subject: Path, folder: Path, **settings):
    return execute("evaluate", {**FEW, **settings}, folder, inputs=given(family, subject=subject)).metrics


def weights(model, family):
    found = {name: layer.weight.detach().double() for name, layer in block_linears(model).items()}
    return {name: weight.T if family == "gpt2" else weight for name, weight in found.items()}


def merged(family: str, adapter: Path):
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(base_model(family)), adapter).merge_and_unload()


def expected(family, tuned, rank):
    """Distance, overlap and intruders from dense weights, numpy's SVD and scipy's angles."""
    base, target = (weights(load_model(path), family) for path in (base_model(family), teacher(family)))
    distance, whole, overlaps, intruders = 0.0, 0.0, [], []
    for name, weight in weights(tuned, family).items():
        distance += float((weight - target[name]).square().sum())
        whole += float((target[name] - base[name]).square().sum())
        lefts = [np.linalg.svd(change.numpy())[0] for change in (weight - base[name], target[name] - base[name])]
        if float((weight - base[name]).abs().max()) > 1e-6:
            angles = subspace_angles(*(left[:, : min(rank, min(weight.shape))] for left in lefts))
            overlaps.append(np.mean(np.cos(angles) ** 2))
        intruders.append(dense_intruders(weight, base[name]))
    return math.sqrt(distance / whole), np.mean(overlaps) if overlaps else None, np.mean(intruders)


def found(metrics):
    return tuple(metrics[name] for name in ("distance_to_teacher", "subspace_overlap", "intruder_dimensions"))


@pytest.mark.parametrize(
    ("family", "init"), [("gpt2", "random"), ("llama", "svd"), ("qwen2", "svd_subtracted"), ("gpt2", "pissa")]
)
def test_a_students_geometry_is_that_of_its_merged_weights(tmp_path, family, init):
    """An adapter of twice the rank, too: its subspace is looked at at the rank that was trained."""
    metrics = measured(family, student(family, init), tmp_path)
    tuned = merged(family, student(family, init) / "adapter")
    assert metrics["subspace_rank"] == 4
    assert found(metrics) == pytest.approx(expected(family, tuned, 4), rel=2e-3)
    assert 0.01 < metrics["subspace_overlap"] < 0.999
    assert not 0.999 < metrics["distance_to_teacher"] < 1.001


@pytest.mark.parametrize("family", FAMILIES)
def test_a_truncated_teachers_distance_is_its_error_and_its_subspace_the_teachers(tmp_path, family):
    metrics = measured(family, export(family), tmp_path, rank=6)
    assert metrics["distance_to_teacher"] == pytest.approx(math.sqrt(1 - metrics["energy"]), rel=1e-4)
    assert metrics["subspace_overlap"] == pytest.approx(1, abs=1e-4)
    assert metrics["subspace_rank"] == 6


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_a_whole_model_is_compared_as_its_dense_change(tmp_path, family):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    load_model(base_model(family)).save_pretrained(folder)
    draw = torch.Generator().manual_seed(8)
    tensors = load_file(folder / "model.safetensors")
    changed = {name: value + 0.05 * torch.randn(value.shape, generator=draw) for name, value in tensors.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    metrics = measured(family, folder, tmp_path / "run", subspace_rank=5)
    assert found(metrics) == pytest.approx(expected(family, load_model(folder), 5), rel=2e-3)


def test_the_teacher_lies_at_no_distance_from_itself_and_the_base_at_one(tmp_path):
    itself = measured("llama", teacher("llama"), tmp_path / "a")
    base = measured("llama", base_model("llama"), tmp_path / "b")
    assert itself["distance_to_teacher"] == 0
    assert itself["subspace_overlap"] == pytest.approx(1, abs=1e-6)
    assert base["distance_to_teacher"] == pytest.approx(1, abs=1e-12)
    assert (base["subspace_overlap"], base["subspace_overlap_chance"], base["intruder_dimensions"]) == (None, None, 0)


def test_layers_without_an_adapter_count_as_the_bases_and_each_type_is_told_apart(tmp_path):
    inputs = {role: path for role, path in given("qwen2").items() if role != "teacher"}
    execute("student", {**STUDENT, "target_modules": ["q_proj"]}, tmp_path / "s", inputs=inputs)
    metrics = measured("qwen2", tmp_path / "s", tmp_path / "run")
    assert metrics["distance_to_teacher_k_proj"] == pytest.approx(1, abs=1e-12)
    assert metrics["subspace_overlap_k_proj"] is None
    assert metrics["subspace_overlap_q_proj"] == metrics["subspace_overlap"] is not None
    with (tmp_path / "run" / "geometry.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 14
    squares = [sum(float(row[name]) ** 2 for row in rows) for name in ("distance", "delta_norm")]
    assert math.sqrt(squares[0] / squares[1]) == pytest.approx(metrics["distance_to_teacher"], rel=1e-12)
    only = measured("qwen2", tmp_path / "s", tmp_path / "q", target_modules=["q_proj"])
    assert only["distance_to_teacher"] == pytest.approx(metrics["distance_to_teacher_q_proj"], rel=1e-12)


def test_a_warm_worker_gives_what_a_fresh_one_gives_and_forgets_another_teacher(tmp_path):
    from trainables.geometry.layers import opened
    from trainables.geometry.summary import metrics

    cache: dict = {}

    def geometry(teacher_folder, cache):
        inputs = given("llama", subject=student("llama", "svd")) | {"teacher": teacher_folder}
        options = {"rank": None, "cut": None, "device": torch.device("cpu")}
        return metrics(list(opened(inputs, "all-linear", **options, cache=cache).layers()))

    first, again = (geometry(teacher("llama"), cache) for _ in range(2))
    assert first == again
    other = tmp_path / "other"
    load_model(merged_into(other))
    assert geometry(other, cache) == geometry(other, {}) != first


def merged_into(folder: Path) -> Path:
    merged("llama", student("llama", "svd") / "adapter").save_pretrained(folder)
    return folder


def test_planning_asks_for_a_teacher_only_for_geometry_and_refuses_one_of_another_model():
    evaluate = find("evaluate")
    assert evaluate.needed_roles(EvaluateConfig()) == ("base_model", "dataset", "subject")
    assert evaluate.needed_roles(EvaluateConfig(geometry=True)) == ("base_model", "dataset", "subject", "teacher")
    inputs = {"base_model": base_model("llama"), "teacher": base_model("gpt2")}
    with pytest.raises(InputError, match="geometry compares with a teacher that is no checkpoint of the base model"):
        evaluate.check(EvaluateConfig(geometry=True), inputs)
    with pytest.raises(InputError, match="Did you mean 'q_proj'"):
        evaluate.check(EvaluateConfig(geometry=True, target_modules=["q_prj"]), inputs)
    plain = EvaluateConfig(subspace_rank=3, target_modules=["q_proj"])
    assert plain.identity() == EvaluateConfig().identity()
    assert EvaluateConfig(geometry=True, subspace_rank=3).identity() != EvaluateConfig(geometry=True).identity()


def test_a_stop_is_obeyed_between_layers(tmp_path):
    inputs = given("llama", subject=teacher("llama"))
    with pytest.raises(Stopped):
        execute("evaluate", FEW, tmp_path / "run", inputs=inputs, stop_after=6)
    assert not (tmp_path / "run" / "geometry.csv").exists()
