"""What is refused from the headers alone: each message names the first tensor, counts the rest and says the way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trainables.architectures import architecture
from tests.trainables.export.test_checkpoint_pair import WEIGHTS, checked, copy, moved, refused

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("base", "tuned", "first", "cause"),
    [
        ("llama", "phi3", "has no tensor", "it holds query, key and value in one tensor where the base has three"),
        ("phi3", "llama", "has no tensor", "it holds query, key and value in three tensors where the base has one"),
        ("qwen2", "gpt2", "has no tensor model.embed_tokens.weight", "its config says 'gpt2' and the base's 'qwen2'"),
        ("mixtral", "qwen2_moe", "has no tensor", "its config says 'qwen2_moe' and the base's 'mixtral'"),
    ],
)
def test_another_architecture_is_named_with_what_differs(base: str, tuned: str, first: str, cause: str) -> None:
    said = refused(architecture(base), architecture(tuned))
    assert f"the tuned {first}" in said
    assert cause in said
    assert "more tensors that do not fit)" in said
    assert "give the base that it was tuned from" in said


@pytest.mark.parametrize(("layers", "first"), [(3, "holds model.layers.2."), (1, "has no tensor model.layers.1.")])
def test_another_number_of_blocks_is_counted_also_where_all_the_base_s_tensors_are_there(
    layers: int, first: str
) -> None:
    said = refused(architecture("qwen2_moe", num_hidden_layers=2), architecture("qwen2_moe", num_hidden_layers=layers))
    assert f"the tuned {first}" in said
    assert f"it has {layers} blocks and the base 2" in said


def test_every_misfit_of_both_sides_is_counted_in_one_line(tmp_path: Path) -> None:
    def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors["model.norm.weight"]
        tensors[Q] = tensors[Q][:-1]
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].to(torch.int32)
        return tensors | {"model.layers.0.self_attn.o_proj.bias": torch.zeros(64)}

    tuned = copy("qwen2", tmp_path / "tuned", spoil)
    base = copy("qwen2", tmp_path / "base", lambda all_: {**all_, Q: all_[Q].to(torch.int8)})
    said = refused(base, tuned)
    assert said.startswith(f"{Q} of the base is stored as I8: give a checkpoint that is not quantised (")
    assert "the tuned has no tensor model.norm.weight (and 3 more tensors that do not fit)" in said
    assert "it may be another model" in said


def test_a_base_whose_weights_are_not_those_of_its_config_is_the_base_s_mistake(tmp_path: Path) -> None:
    base = copy("qwen2", tmp_path / "base", lambda all_: {k: t for k, t in all_.items() if k != Q})
    said = refused(base, base)
    assert f"the base has no tensor {Q}; its config.json describes another model than its weights" in said


@pytest.mark.parametrize(
    ("suffix", "scheme"),
    [
        (".qweight", "GPTQ or AWQ"),
        (".weight.absmax", "bitsandbytes"),
        (".weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        (".SCB", "bitsandbytes"),
        (".weight_scale_inv", "scales beside the weights"),
        (".weight_blocks", "MXFP4"),
    ],
)
def test_a_quantised_checkpoint_is_refused_by_its_scheme_and_not_by_a_missing_tensor(
    suffix: str, scheme: str, tmp_path: Path
) -> None:
    module = Q.removesuffix(".weight")

    def quantise(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors[Q]
        return tensors | {module + suffix: torch.zeros(4, dtype=torch.uint8)}

    said = refused(architecture("qwen2"), copy("qwen2", tmp_path / "tuned", quantise))
    assert f"the tuned is quantised by {scheme} ({module}{suffix}): give the checkpoint it was made from" in said


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.int32], ids=str)
def test_a_weight_that_is_stored_in_too_few_bits_is_refused_by_name(dtype: torch.dtype, tmp_path: Path) -> None:
    tuned = copy("qwen2", tmp_path / "tuned", lambda all_: {**all_, Q: all_[Q].to(dtype)})
    said = refused(architecture("qwen2"), tuned)
    assert f"{Q} of the tuned is stored as " in said
    assert "give a checkpoint that is not quantised" in said


@pytest.mark.parametrize("part", ["", "layers"])
def test_shards_that_zero_3_did_not_gather_are_told_from_another_model(part: str, tmp_path: Path) -> None:
    def scatter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.empty(0) if part in name else tensor for name, tensor in tensors.items()}

    base, tuned = architecture("qwen2"), copy("qwen2", tmp_path / "tuned", scatter)
    for said in (refused(base, tuned), refused(tuned, base).replace("the base", "the tuned")):
        assert "the tuned holds no values in " in said
        assert "has the shape [0]): it was saved under DeepSpeed ZeRO-3 without gathering its shards" in said
        assert "zero_to_fp32.py (option --safe_serialization) and give the result" in said


def test_a_missing_shard_is_told_by_the_names_of_the_others_where_no_index_lists_them(tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(architecture("qwen2"), tuned)
    (tuned / WEIGHTS).unlink()
    tensors = load_file(architecture("qwen2") / WEIGHTS)
    for number in (0, 2):
        part = {name: tensors[name] for name in sorted(tensors)[number::3]}
        save_file(part, tuned / f"model-0000{number + 1}-of-00003.safetensors")
    assert "; it has 2 of 3 shards: copy all its files again" in refused(architecture("qwen2"), tuned)


def test_an_unmerged_adapter_is_told_from_another_architecture(tmp_path: Path) -> None:
    def wrap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        wrapped = {f"base_model.model.{key}": tensor for key, tensor in tensors.items()}
        module = f"base_model.model.{Q.removesuffix('.weight')}"
        wrapped[f"{module}.base_layer.weight"] = wrapped.pop(f"base_model.model.{Q}")
        return wrapped | {f"{module}.lora_A.default.weight": torch.zeros(2, 64)}

    said = refused(architecture("qwen2"), copy("qwen2", tmp_path / "tuned", wrap))
    assert "it holds a LoRA adapter that is not merged: merge it first (peft: merge_and_unload)" in said


def test_buffers_that_older_versions_saved_and_tensors_that_both_hold_are_no_misfits(tmp_path: Path) -> None:
    shared = {"model.mtp.weight": torch.zeros(3, 3)}
    base = copy("qwen2", tmp_path / "base", lambda all_: all_ | shared)
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}
    made, layout = checked(base, copy("qwen2", tmp_path / "tuned", lambda all_: moved(all_) | shared | buffers))
    assert all(made.norms(parameter).delta_norm > 0 for parameter in layout.parameters)


def test_a_tensor_that_only_the_tuned_checkpoint_holds_is_named(tmp_path: Path) -> None:
    tuned = copy("qwen2", tmp_path / "tuned", lambda all_: all_ | {"v_head.summary.weight": torch.zeros(1, 64)})
    assert "the tuned holds v_head.summary.weight, which the base does not" in refused(architecture("qwen2"), tuned)


def test_a_config_that_names_no_type_does_not_hide_what_is_wrong(tmp_path: Path) -> None:
    tuned = copy("qwen2", tmp_path / "tuned", lambda all_: {k: t for k, t in all_.items() if k != Q})
    (tuned / "config.json").write_text(json.dumps({}))
    assert f"the tuned has no tensor {Q}" in refused(architecture("qwen2"), tuned)
