"""Changes and norms of a pair of checkpoints against torch on the whole tensors, however the files are laid out."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.anonymous_memory import rss_anon, sampled
from tests.trainables.architectures import ARCHITECTURES, architecture
from trainables.base import InputError
from trainables.checkpoint_files import INDEX
from trainables.export.checkpoint_pair import Checkpoint, CheckpointPair
from trainables.export.spectrum import is_near_noise
from trainables.targets import Layout, Parameter, choose, read_layout, select

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"


def copy(name: str, folder: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> Path:
    """Copy a tiny model with the tensors that `change` makes of its own."""
    shutil.copytree(architecture(name), folder)
    save(folder, change(load_file(folder / WEIGHTS)))
    return folder


def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / WEIGHTS)


def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor a little different, as training leaves them."""
    draw = torch.Generator().manual_seed(3)
    return {name: tensor + 0.02 * torch.randn(tensor.shape, generator=draw) for name, tensor in tensors.items()}


def pair(base: Path, tuned: Path) -> CheckpointPair:
    return CheckpointPair(Checkpoint(base, "base"), Checkpoint(tuned, "tuned"), CPU)


def checked(base: Path, tuned: Path, targets: str | list[str] = "all-linear") -> tuple[CheckpointPair, Layout]:
    """Return a pair that passed its check, and the base's layout."""
    made, layout = pair(base, tuned), read_layout(base)
    made.check(layout.parameters, targets=select(layout, targets))
    return made, layout


def refused(base: Path, tuned: Path, targets: str | list[str] = "all-linear") -> str:
    """Return the message with which the pair is refused; no weight may have been read by then."""
    made, layout = pair(base, tuned), read_layout(base)
    with pytest.raises(InputError) as raised:
        made.check(layout.parameters, targets=select(layout, targets))
    assert not made.base.files
    assert not made.tuned.files
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_changes_and_norms_are_those_of_the_models_that_transformers_loads(name: str, tmp_path: Path) -> None:
    base, tuned = architecture(name), copy(name, tmp_path / "tuned", moved)
    made, layout = checked(base, tuned)
    before, after = (
        dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())
        for folder in (base, tuned)
    )
    total = 0.0
    for parameter in layout.parameters:
        change, norms = made.change(parameter), made.norms(parameter)
        assert (change.delta_norm, change.weight_norm, change.noise_norm) == (
            norms.delta_norm,
            norms.weight_norm,
            norms.noise_norm,
        )
        total += change.delta_norm**2
        if parameter.name in before:  # the experts of a mixture are stored otherwise than they are loaded
            delta = after[parameter.name].detach() - before[parameter.name].detach()
            assert torch.equal(change.delta, delta)
            assert change.delta_norm == pytest.approx(float(delta.double().norm()), rel=1e-12)
            assert change.weight_norm == pytest.approx(float(before[parameter.name].detach().double().norm()))
    expected = sum(float((after[key].detach() - before[key].detach()).double().square().sum()) for key in before)
    assert total == pytest.approx(expected, rel=1e-9)  # experts included


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "bare"])
def test_shards_orders_dtypes_and_prefixes_make_no_difference(name: str, prefix: str, tmp_path: Path) -> None:
    """One file in fp32 against shards of bf16, fp16, fp32 and fp64 in another order and under other names."""
    inner = "transformer." if name == "gpt2" else "model."
    kinds = [torch.bfloat16, torch.float16, torch.float32, torch.float64]

    def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        values = moved(tensors).items()
        return {key: tensor.to(kinds[index % 4]).float() for index, (key, tensor) in enumerate(sorted(values))}

    plain = copy(name, tmp_path / "plain", half)
    other = tmp_path / "other"
    shutil.copytree(plain, other)
    tensors = {
        key: tensor.to(kinds[index % 4])
        for index, (key, tensor) in enumerate(sorted(load_file(plain / WEIGHTS).items()))
    }
    (other / WEIGHTS).unlink()
    rename = (lambda key: key.removeprefix(inner)) if prefix == "bare" else (lambda key: prefix + key)
    order = sorted(tensors, reverse=True)
    files = {f"model-0000{index + 1}-of-00003.safetensors": order[index::3] for index in range(3)}
    for file, keys in files.items():
        save_file({rename(key): tensors[key] for key in keys}, other / file)
    index = {rename(key): file for file, keys in files.items() for key in keys}
    (other / INDEX).write_text(json.dumps({"weight_map": index}))
    base = architecture(name)
    (one, layout), (two, _) = checked(base, plain), checked(base, other)
    assert two.dtypes(layout.parameters)[1] == ["BF16", "F16", "F32", "F64"]
    for parameter in layout.parameters:
        first, second = one.change(parameter), two.change(parameter)
        assert torch.equal(first.delta, second.delta), parameter.name
        assert first.noise_norm == pytest.approx(second.noise_norm, rel=1e-12)


def test_a_change_of_an_fp64_checkpoint_is_not_rounded_before_the_subtraction(tmp_path: Path) -> None:
    shift = 1e-9  # far below the spacing of fp32 at 1
    base = copy("qwen2", tmp_path / "base", lambda all_: {key: tensor.double() + 1 for key, tensor in all_.items()})
    tuned = copy(
        "qwen2", tmp_path / "tuned", lambda all_: {key: tensor.double() + 1 + shift for key, tensor in all_.items()}
    )
    made, layout = checked(base, tuned)
    parameter = layout.parameters[1]
    size = math.prod(parameter.shape)
    assert made.change(parameter).delta_norm == pytest.approx(shift * math.sqrt(size), rel=1e-5)


def vocabulary_of(name: str, folder: Path, rows: int) -> Path:
    """Copy a tiny model, moved, with its vocabulary cut or extended to `rows`."""

    def resize(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        made = moved(tensors)
        for key in list(made):
            if key.endswith(("embed_tokens.weight", "wte.weight", "lm_head.weight")):
                more = torch.ones(max(0, rows - len(made[key])), made[key].shape[1])
                made[key] = torch.cat([made[key], more])[:rows]
        return made

    return copy(name, folder, resize)


@pytest.mark.parametrize("name", ["qwen2", "llama", "gpt2"])
@pytest.mark.parametrize("more", [-5, 7])
def test_a_resized_vocabulary_is_measured_over_the_rows_in_common(name: str, more: int, tmp_path: Path) -> None:
    base = architecture(name)
    same, tokens = copy(name, tmp_path / "same", moved), _rows(base)
    made, layout = checked(base, vocabulary_of(name, tmp_path / "resized", tokens + more))
    plain, _ = checked(base, same)
    targets = select(layout, "all-linear")
    excluded = {item.name: item for item in made.excluded(layout, targets)}
    resized = [parameter for parameter in layout.parameters if parameter.has_vocabulary_rows]
    assert len(resized) == (2 if name == "qwen2" else 1)
    for parameter in resized:
        found = excluded[parameter.name]
        assert found.reason == f"vocabulary {tokens} -> {tokens + more}: common rows only"
        delta = plain.change(parameter).delta[: tokens + min(0, more)]
        assert found.delta_norm == pytest.approx(float(delta.double().norm()), rel=1e-12)
    untouched = {name for name in excluded if "vocabulary" not in excluded[name].reason}
    assert untouched == {item.name for item in layout.parameters if item.reason} - {item.name for item in resized}


def _rows(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def test_a_resized_output_head_is_no_target_and_that_is_found_from_the_headers(tmp_path: Path) -> None:
    tokens = _rows(architecture("qwen2"))
    tuned = vocabulary_of("qwen2", tmp_path / "tuned", tokens + 7)
    said = refused(architecture("qwen2"), tuned, ["q_proj", "lm_head"])
    assert f"the vocabulary sizes differ: lm_head.weight of the tuned is {tokens + 7}x64" in said
    assert "leave lm_head.weight out of the layers" in said
    made, layout = pair(architecture("qwen2"), tuned), read_layout(architecture("qwen2"))
    head = next(item for item in layout.parameters if item.name == "lm_head.weight")
    with pytest.raises(InputError, match="the vocabulary sizes differ"):
        made.change(head)  # also where nobody named the targets


def test_a_linear_layer_that_happens_to_have_as_many_rows_as_the_vocabulary_may_not_be_resized(tmp_path: Path) -> None:
    base = architecture("llama", vocab_size=48, tie_word_embeddings=True)  # 48 is the size of the MLP too

    def longer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            key: torch.cat([tensor, tensor[:1]]) if len(tensor) == 48 and tensor.ndim == 2 else tensor
            for key, tensor in tensors.items()
        }

    shutil.copytree(base, tmp_path / "tuned")
    save(tmp_path / "tuned", longer(load_file(base / WEIGHTS)))
    said = refused(base, tmp_path / "tuned")
    assert "gate_proj.weight of the tuned has shape 49x32 and the base model's config says 48x32" in said
    assert "(and 3 more tensors that do not fit)" in said  # two blocks, gate and up: the embeddings are no error


@pytest.mark.parametrize("stored", ["neither", "base", "tuned", "both"])
def test_a_tied_head_counts_once_whoever_stores_it(stored: str, tmp_path: Path) -> None:
    def with_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}

    def as_is(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors

    base = copy("llama", tmp_path / "base", with_head if stored in ("base", "both") else as_is)
    tune = with_head if stored in ("tuned", "both") else as_is
    tuned = copy("llama", tmp_path / "tuned", lambda tensors: tune(moved(tensors)))
    made, layout = checked(base, tuned)
    targets = select(layout, "all-linear")
    assert not any(linear.name == "lm_head" for linear in targets)
    tied = [item for item in made.excluded(layout, targets) if "embed" in item.name or "lm_head" in item.name]
    assert [(item.name, item.reason) for item in tied] == [
        ("model.embed_tokens.weight", "output head tied to the embeddings")
    ]
    embedding = "model.embed_tokens.weight"
    delta = load_file(tuned / WEIGHTS)[embedding] - load_file(base / WEIGHTS)[embedding]
    assert tied[0].delta_norm == pytest.approx(float(delta.double().norm()), rel=1e-9)


def test_a_head_that_only_the_tuned_checkpoint_unties_is_refused_by_the_check(tmp_path: Path) -> None:
    def untie(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}

    tuned = copy("llama", tmp_path / "tuned", untie)
    with pytest.raises(InputError, match=r"the tuned unties lm_head\.weight from model\.embed_tokens\.weight"):
        checked(architecture("llama"), tuned)


def test_a_head_that_only_the_tuned_checkpoint_ties_is_refused_with_the_way_out(tmp_path: Path) -> None:
    def tie(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in tensors.items() if key != "lm_head.weight"}

    said = refused(architecture("qwen2"), copy("qwen2", tmp_path / "tuned", tie))
    assert "the tuned has no tensor lm_head.weight; it ties its output head" in said
    assert "tie_word_embeddings=False" in said


@pytest.mark.parametrize(("side", "bad"), [("base", math.nan), ("tuned", math.inf), ("tuned", math.nan)])
def test_a_weight_that_is_not_finite_is_refused_by_tensor_and_checkpoint(side: str, bad: float, tmp_path: Path) -> None:
    spoilt = "model.layers.1.mlp.up_proj.weight"

    def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors[spoilt][-1, -1] = bad
        return tensors

    folders = {"base": architecture("qwen2"), "tuned": architecture("qwen2")}
    folders[side] = copy("qwen2", tmp_path / "spoilt", spoil)
    made, layout = checked(folders["base"], folders["tuned"])
    for parameter in layout.parameters:
        for measure in (made.change, made.norms):
            if parameter.name == spoilt:
                with pytest.raises(InputError, match=rf"{re.escape(spoilt)} of the {side} holds NaN or infinity"):
                    measure(parameter)
            else:
                assert measure(parameter).delta_norm == 0


def test_an_fp64_weight_beyond_fp32_is_refused_and_not_factorised_as_infinity(tmp_path: Path) -> None:
    def large(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        made = {key: tensor.double() for key, tensor in tensors.items()}
        made["model.norm.weight"][0] = 1e300
        return made

    made, layout = checked(architecture("qwen2"), copy("qwen2", tmp_path / "tuned", large))
    norm = next(item for item in layout.parameters if item.name == "model.norm.weight")
    with pytest.raises(InputError, match=r"model\.norm\.weight of the tuned holds NaN or infinity"):
        made.norms(norm)


@pytest.mark.parametrize("upcast", [False, True], ids=["bf16", "bf16 saved as fp32"])
def test_a_teacher_that_was_saved_in_bf16_is_near_noise_and_an_fp32_one_is_not(upcast: bool, tmp_path: Path) -> None:
    """A change of 1e-4 per weight of sd 0.02: the same training, saved in two ways."""

    def train(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(5)
        return {key: tensor + 1e-4 * torch.randn(tensor.shape, generator=draw) for key, tensor in tensors.items()}

    def train_in_bf16(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        low = {key: tensor.bfloat16() for key, tensor in train(tensors).items()}
        return {key: tensor.float() for key, tensor in low.items()} if upcast else low

    base = architecture("qwen2")
    fine, layout = checked(base, copy("qwen2", tmp_path / "fine", train))
    rough, _ = checked(base, copy("qwen2", tmp_path / "rough", train_in_bf16))
    weights = {linear.weight for linear in select(layout, "all-linear")}
    for parameter in (item for item in layout.parameters if item.name in weights):
        one, other = fine.change(parameter), rough.change(parameter)
        assert not is_near_noise(one.delta_norm, one.noise_norm)
        assert is_near_noise(other.delta_norm, other.noise_norm)
        excess = math.sqrt(other.delta_norm**2 - one.delta_norm**2)  # what rounding really added
        assert other.noise_norm == pytest.approx(excess, rel=0.15)


def test_a_base_stored_in_bf16_is_no_noise(tmp_path: Path) -> None:
    """Training starts from exactly the values that the base's file holds."""
    base = copy("qwen2", tmp_path / "base", lambda all_: {key: tensor.bfloat16() for key, tensor in all_.items()})
    tuned = copy("qwen2", tmp_path / "tuned", lambda all_: moved({k: t.bfloat16().float() for k, t in all_.items()}))
    made, layout = checked(base, tuned)
    change = made.change(next(item for item in layout.parameters if item.name.endswith("q_proj.weight")))
    assert not is_near_noise(change.delta_norm, change.noise_norm)
    assert change.noise_norm < 1e-6 * change.weight_norm


def test_only_the_chosen_layers_are_targets_and_the_others_are_excluded_as_such(tmp_path: Path) -> None:
    made, layout = checked(architecture("phi3"), copy("phi3", tmp_path / "tuned", moved))
    targets = choose(select(layout, "all-linear"), [["attention"], ["1"]])
    assert [linear.name for linear in targets] == [
        "model.layers.1.self_attn.o_proj",
        "model.layers.1.self_attn.qkv_proj",
    ]
    reasons = {item.name: item.reason for item in made.excluded(layout, targets)}
    assert len(reasons) == len(layout.parameters) - 2
    assert reasons["model.layers.0.self_attn.qkv_proj.weight"] == "not a target"
    assert reasons["model.layers.1.mlp.gate_up_proj.weight"] == "not a target"
    assert reasons["model.norm.weight"] == "1-D"
    assert reasons["lm_head.weight"] == "output head"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what memory is a process's own")
def test_a_tensor_is_changed_where_any_of_its_values_is(tmp_path: Path) -> None:
    """The last value of one tensor differs, by one unit in the last place; NaN is a change."""

    def touch(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        last = tensors["model.layers.1.mlp.up_proj.weight"].view(-1)
        last[-1] = torch.nextafter(last[-1], torch.tensor(9.0))
        tensors["model.norm.weight"][0] = math.nan
        return tensors

    made, layout = checked(architecture("qwen2"), copy("qwen2", tmp_path / "tuned", touch))
    found = {parameter.name for parameter in layout.parameters if made.is_changed(parameter)}
    assert found == {"model.layers.1.mlp.up_proj.weight", "model.norm.weight"}


def test_a_change_costs_one_copy_of_its_matrix_and_norms_cost_none(tmp_path: Path) -> None:
    shape = (2048, 4096)
    copy_mib = math.prod(shape) * 4 / 2**20
    draw = torch.Generator().manual_seed(0)
    for side in ("base", "tuned"):
        (tmp_path / side).mkdir()
        save(tmp_path / side, {"w": torch.randn(shape, generator=draw)})
    made, parameter = pair(tmp_path / "base", tmp_path / "tuned"), Parameter(("w",), shape)
    made.norms(parameter)  # whatever the first call brings in for good
    with peak_mib() as peak:
        made.norms(parameter)
    assert peak[0] < 0.25 * copy_mib
    with peak_mib() as peak:
        change = made.change(parameter)
    assert 0.9 * copy_mib < peak[0] < 1.5 * copy_mib
    assert change.delta.shape == shape


@contextlib.contextmanager
def peak_mib() -> Iterator[list[float]]:
    """Sample the process' own memory while a block runs; the list holds the most it grew, in MiB."""
    ctypes.CDLL(None).malloc_trim(0)  # else what earlier tests have freed would be taken first, and nothing would grow
    grown, first = [0.0], rss_anon()
    with sampled(every_s=0.001) as peak:
        yield grown
    grown[0] = (peak[0] - first) / 2**20


def test_changes_of_several_threads_are_those_of_one(tmp_path: Path) -> None:
    made, layout = checked(architecture("qwen2"), copy("qwen2", tmp_path / "tuned", moved))
    found: dict[str, Tensor] = {}

    def work(parameters: Iterator[Parameter]) -> None:
        for parameter in parameters:
            found[parameter.name] = made.change(parameter).delta

    threads = [threading.Thread(target=work, args=(iter(layout.parameters[index::4]),)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[item.name], made.change(item).delta) for item in layout.parameters)
