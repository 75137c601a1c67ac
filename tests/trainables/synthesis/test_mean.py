"""The mean of several LoRAs against dense computation and PEFT's own merge; what its report says."""

from __future__ import annotations

import csv
import functools
import math
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.linalg import subspace_angles

from tests.trainables.driver import drive, execute, prepare
from tests.trainables.tiny_models import FAMILIES, base_model, inputs
from trainables import find
from trainables.base import InputError, Stopped
from trainables.lora_mean import LoraMeanConfig
from trainables.synthesis.mean import Synthesis, effective_rank, open_synthesis
from trainables.training.models import block_linears, load_model

MEMBER = {"rank": 6, "steps": 3, "batch_size": 4, "eval_every": 3, "precision": "fp32", "learning_rate": 2e-2}
SEEDS = (1, 2, 3)


@functools.cache
def members(family: str) -> dict[str, Path]:
    """Three students of one stage; rsLoRA, so that no scaling is 1."""
    folder = Path(tempfile.mkdtemp(prefix=f"members-{family}-"))
    for seed in SEEDS:
        settings = {**MEMBER, "seed": seed, "use_rslora": True, "lora_alpha": 5.0}
        execute("student", settings, folder / str(seed), inputs=inputs(family))
    return {f"member_{index}": folder / str(seed) for index, seed in enumerate(SEEDS, 1)}


@functools.cache
def synthesised(family: str) -> tuple[Path, dict]:
    folder = Path(tempfile.mkdtemp(prefix=f"mean-{family}-")) / "mean"
    return folder, dict(drive("lora_mean", {}, folder, inputs={"base_model": base_model(family), **members(family)}))


@functools.cache
def member_changes(family: str) -> list[dict[str, torch.Tensor]]:
    """What PEFT's merge adds to the stored weights, for each member."""
    base = block_linears(load_model(base_model(family)))
    found = []
    for folder in members(family).values():
        merged = PeftModel.from_pretrained(load_model(base_model(family)), folder / "adapter").merge_and_unload()
        layers = block_linears(merged)
        weights = {name: (layers[name].weight.detach(), base[name].weight.detach()) for name in base}
        found.append({name: after.double() - before.double() for name, (after, before) in weights.items()})
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_the_base_plus_the_mean_of_what_peft_merges(family):
    folder, _ = synthesised(family)
    before, after = load_model(base_model(family)).state_dict(), load_model(folder).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.weight" for name in member_changes(family)[0]}
    for name in member_changes(family)[0]:
        mean = sum(change[name] for change in member_changes(family)) / len(SEEDS)
        moved = after[f"{name}.weight"].double() - before[f"{name}.weight"].double()
        torch.testing.assert_close(moved, mean, rtol=0, atol=1e-6)
        assert mean.abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_cosines_and_overlaps_are_those_of_the_dense_changes(family):
    _, metrics = synthesised(family)
    changes = member_changes(family)
    names = list(changes[0])
    mean = {name: sum(change[name] for change in changes) / len(changes) for name in names}

    def size(change):
        return math.sqrt(sum(float(change[name].square().sum()) for name in names))

    def inner(one, other):
        return sum(float((one[name] * other[name]).sum()) for name in names)

    sizes = [size(change) for change in changes]
    pairs = list(combinations(range(len(changes)), 2))
    assert metrics["delta_norm"] == pytest.approx(size(mean), rel=1e-4)
    assert metrics["member_delta_norm"] == pytest.approx(np.mean(sizes), rel=1e-4)
    assert metrics["kept_norm"] == pytest.approx(size(mean) / math.sqrt(np.mean(np.square(sizes))), rel=1e-4)
    cosines = [inner(changes[i], changes[j]) / (sizes[i] * sizes[j]) for i, j in pairs]
    assert metrics["member_cosine"] == pytest.approx(np.mean(cosines), abs=1e-4)
    overlaps = []
    for name in names:
        lefts = [
            np.linalg.svd((change[name].T if family == "gpt2" else change[name]).numpy())[0][:, :6]
            for change in changes
        ]
        overlaps += [np.mean(np.cos(subspace_angles(lefts[i], lefts[j])) ** 2) for i, j in pairs]
    assert metrics["member_overlap"] == pytest.approx(np.mean(overlaps), abs=2e-3)
    assert (metrics["members"], metrics["member_rank"], metrics["layers"]) == (3, 6, len(names))


def test_the_spectrum_is_that_of_the_dense_mean_and_of_each_member():
    opened = open_synthesis({"base_model": base_model("gpt2"), **members("gpt2")})
    changes = member_changes("gpt2")
    for layer in opened.layers():
        mean = sum(change[layer.linear.name] for change in changes) / len(changes)
        expected = torch.linalg.svdvals(mean)[:18]
        torch.testing.assert_close(layer.values.double(), expected, rtol=1e-3, atol=2e-6)
        for values, change in zip(layer.members, changes, strict=True):
            expected = torch.linalg.svdvals(change[layer.linear.name])[:6]
            torch.testing.assert_close(values.double(), expected, rtol=1e-3, atol=2e-6)


def test_members_that_agree_keep_their_norm_and_unrelated_ones_a_root(tmp_path):
    same = {f"member_{index}": members("qwen2")["member_1"] for index in (1, 2)}
    opened = open_synthesis({"base_model": base_model("qwen2"), **same})
    found = Synthesis(list(opened.layers()), 2, 6)
    assert found.kept == pytest.approx(1, rel=1e-5)
    assert found.cosines == pytest.approx([1.0], rel=1e-5)
    assert all(value == pytest.approx(1, abs=1e-5) for layer in found.layers for value in layer.overlaps)


def test_effective_rank_counts_equal_values_and_none_of_a_zero_matrix():
    assert effective_rank(torch.ones(5)) == pytest.approx(5)
    assert effective_rank(torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_rank(torch.zeros(4)) == 0
    assert effective_rank(torch.tensor([3.0, 1.0])) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )


def test_the_report_says_how_it_was_made_and_what_it_cannot_show(tmp_path):
    folder, metrics = synthesised("qwen2")
    text = (folder / "synthesis.txt").read_text()
    assert text.startswith("The base plus the mean of 3 LoRAs of rank 6, on 14 linear layers\n")
    assert "at most 18 dimensions per layer" in text
    assert f"{100 * metrics['kept_norm']:.1f} % of a member's norm" in text
    assert max(map(len, text.splitlines())) <= 110
    with (folder / "synthesis.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert math.sqrt(sum(float(row["norm"]) ** 2 for row in rows)) == pytest.approx(metrics["delta_norm"], rel=1e-6)
    for name in ("spectrum", "overlap", "rank"):
        assert (folder / "figures" / f"synthesis_{name}.png").stat().st_size > 5000
        assert (folder / "figures" / f"synthesis_{name}.csv").read_text().count("\n") > 3
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_an_export_takes_it_as_it_takes_any_teacher(tmp_path):
    folder, metrics = synthesised("gpt2")
    pair = {"base_model": base_model("gpt2"), "teacher": folder}
    exported = drive("svd_export", {"rank": 18}, tmp_path / "export", inputs=pair)
    assert exported["energy_18"] == pytest.approx(1, abs=1e-6)
    assert exported["outside_share"] == 0
    assert exported["delta_norm"] == pytest.approx(metrics["delta_norm"], rel=1e-5)


def test_what_cannot_be_averaged_is_refused_in_a_line(tmp_path):
    base = {"base_model": base_model("qwen2")}
    with pytest.raises(InputError, match=r"a mean of 1 LoRA is none; give the members' seed at least 2 values"):
        execute("lora_mean", {}, tmp_path / "a", inputs={**base, "member_1": members("qwen2")["member_1"]})
    with pytest.raises(InputError, match="is no student: a member of a mean has an adapter"):
        prepare("lora_mean", {}, {**base, "member_1": base_model("qwen2")}, tmp_path)
    execute("student", {**MEMBER, "rank": 2}, tmp_path / "low", inputs=inputs("qwen2"))
    with pytest.raises(InputError, match=r"different ranks \(1: 6, low: 2, 3: 6\); let only their seeds"):
        find("lora_mean").check(LoraMeanConfig(), {**members("qwen2"), "member_2": tmp_path / "low"} | base)
    execute("student", {**MEMBER, "target_modules": ["q_proj"]}, tmp_path / "few", inputs=inputs("qwen2"))
    with pytest.raises(InputError, match="member_2 and member_1 adapt different layers, first "):
        execute("lora_mean", {}, tmp_path / "b", inputs={**members("qwen2"), "member_2": tmp_path / "few"} | base)
    with pytest.raises(InputError, match="which is no linear layer of the base model"):
        execute("lora_mean", {}, tmp_path / "c", inputs={**members("qwen2"), "base_model": base_model("gpt2")})


def test_a_stop_is_obeyed_between_layers(tmp_path):
    given = {"base_model": base_model("llama"), **members("llama")}
    with pytest.raises(Stopped):
        execute("lora_mean", {}, tmp_path / "run", inputs=given, stop_after=3)
    assert not (tmp_path / "run" / "model.safetensors").exists()
