"""Reading safetensors headers: against files that safetensors itself wrote, and against every way to be broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from trainables.base import InputError
from trainables.checkpoint_files import INDEX, TensorInfo, difference, index_of, read_header, read_headers, weight_files


def save(path: Path, **shapes: tuple[int, ...]) -> None:
    save_file({name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}, path)


def infos(**shapes: tuple[int, ...]) -> dict[str, TensorInfo]:
    return {name.replace("__", "."): TensorInfo("F32", shape, Path("x")) for name, shape in shapes.items()}


def test_names_types_and_shapes_are_those_that_were_saved(tmp_path: Path) -> None:
    save_file({"a": np.zeros((3, 5), np.float16), "b": np.zeros((), np.int64)}, tmp_path / "model.safetensors")
    found = read_headers(tmp_path)
    assert {name: (info.dtype, info.shape, info.elements) for name, info in found.items()} == {
        "a": ("F16", (3, 5), 15),
        "b": ("I64", (), 1),
    }


def test_shards_are_read_by_their_index_and_without_one(tmp_path: Path) -> None:
    save(tmp_path / "model-00001-of-00002.safetensors", a=(2, 2))
    save(tmp_path / "model-00002-of-00002.safetensors", b=(3,))
    tensors = read_headers(tmp_path)
    assert set(tensors) == {"a", "b"}
    (tmp_path / INDEX).write_text(json.dumps(index_of(tensors)))
    assert read_headers(tmp_path) == tensors
    assert index_of(tensors)["metadata"]["total_size"] == 28


def test_a_listed_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    save(tmp_path / "one.safetensors", a=(2,))
    with pytest.raises(InputError, match=r"lists 1 of 2 shards, first two\.safetensors"):
        weight_files(tmp_path)


@pytest.mark.parametrize("bytes_left", [0, 4, 20, -1])
def test_a_file_that_was_cut_off_is_refused_wherever_the_cut_is(tmp_path: Path, bytes_left: int) -> None:
    path = tmp_path / "model.safetensors"
    save(path, a=(10, 10))
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(InputError, match=r"cut off.*copy it again"):
        read_header(path)


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InputError, match="git lfs pull"):
        read_header(path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match=rf"pickled weights only \({name}\).*save_pretrained"):
        weight_files(tmp_path)


def test_an_adapter_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    save(tmp_path / "adapter_model.safetensors", a=(2,))
    with pytest.raises(InputError, match="is a LoRA adapter"):
        weight_files(tmp_path)


def test_a_different_vocabulary_is_said_to_be_that() -> None:
    base = infos(model__embed_tokens__weight=(100, 8), model__layers__0__up__weight=(16, 8))
    given = infos(model__embed_tokens__weight=(101, 8), model__layers__0__up__weight=(16, 8))
    said = difference(given, base)
    assert said == "the vocabulary sizes differ: embed_tokens.weight is 101x8, the base's 100x8"


def test_missing_and_extra_tensors_are_named() -> None:
    base = infos(a=(1,), b=(1,), c=(1,))
    assert difference(infos(a=(1,), d=(1,)), base) == "it lacks b and 1 more tensors and the base lacks d"


def test_prefixes_buffers_and_a_stored_tied_head_make_no_difference() -> None:
    base = infos(transformer__wte__weight=(9, 4), transformer__h__0__attn__bias=(1, 1))
    assert difference(infos(wte__weight=(9, 4), lm_head__weight=(9, 4)), base) is None
