"""The base model: built-in ones, folders of all shapes, and what is refused before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import trainables
from tests.trainables.driver import FolderPlanner, drive, prepare
from tests.trainables.tiny_models import FAMILIES, base_model
from trainables.base import InputError
from trainables.base_model import TRAINABLE, BaseModelConfig
from trainables.checkpoint_files import INDEX, read_headers


def copied(family: str, folder: Path) -> Path:
    shutil.copytree(base_model(family), folder)
    return folder


def logits(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(40).reshape(2, 20)).logits


def identity(source: str | Path, directory: Path, **settings: Any) -> dict[str, Any]:
    config = BaseModelConfig(source=str(source), **settings)
    pinned = TRAINABLE.pin(config, FolderPlanner(directory))
    return dict(pinned.identity())


def refused(source: str | Path, directory: Path, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        prepare("base_model", {"source": str(source), **settings}, {}, directory)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_trainable_is_found_by_its_name_and_prepares() -> None:
    assert trainables.find("base_model") is TRAINABLE
    assert (TRAINABLE.name, TRAINABLE.version, TRAINABLE.prepares) == ("base_model", 1, True)
    assert TRAINABLE.needed_roles(BaseModelConfig(source="tiny-llama")) == ()
    assert TRAINABLE.needed_roles(BaseModelConfig(source="tiny-llama", match_base=True)) == ("base_model",)
    assert len(TRAINABLE.source_digest(BaseModelConfig(source="tiny-llama"))) == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_reloads_with_the_logits_it_had(family: str, tmp_path: Path) -> None:
    import torch

    metrics = drive("base_model", {"source": f"tiny-{family}"}, tmp_path / "one")
    assert metrics["layers"] == 2
    assert metrics["vocabulary"] == read_headers(tmp_path / "one")[embeddings(tmp_path / "one")].shape[0]
    drive("base_model", {"source": str(tmp_path / "one")}, tmp_path / "two")
    assert torch.equal(logits(tmp_path / "one"), logits(tmp_path / "two"))


def embeddings(folder: Path) -> str:
    return next(name for name in read_headers(folder) if name.endswith(("embed_tokens.weight", "wte.weight")))


@pytest.mark.parametrize("family", FAMILIES)
def test_seeds_give_different_weights_and_one_seed_the_same(family: str, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        drive("base_model", {"source": f"tiny-{family}", "seed": seed}, tmp_path / name)
    contents = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tiny_tokenizer_gives_text_back_and_ends_turns_with_its_end_token(family: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model(family))
    text = "State the final answer: 12 + 3 - 45 = -30\n\tÜber 3 × 5 → 😀"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    turns = [{"role": "user", "content": "1 + 1 ="}, {"role": "assistant", "content": "2"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<|user|>1 + 1 =<|assistant|>2<|end|>"
    assert tokenizer("<|end|>")["input_ids"] == [tokenizer.eos_token_id]
    assert len(tokenizer) == read_headers(base_model(family))[embeddings(base_model(family))].shape[0]


def test_a_sharded_folder_is_copied_whole_and_gives_the_same_logits(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "sharded"
    model = AutoModelForCausalLM.from_pretrained(base_model("qwen2"))
    model.save_pretrained(folder, max_shard_size="200KB")
    AutoTokenizer.from_pretrained(base_model("qwen2")).save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    drive("base_model", {"source": str(folder)}, tmp_path / "with_index")
    (folder / INDEX).unlink()
    drive("base_model", {"source": str(folder)}, tmp_path / "without_index")
    for name in ("with_index", "without_index"):
        assert torch.equal(logits(tmp_path / name), logits(base_model("qwen2")))


def test_a_folder_counts_by_its_content_and_not_by_its_path_or_bystanders(tmp_path: Path) -> None:
    one, other = copied("llama", tmp_path / "one"), copied("llama", tmp_path / "a path with spaces")
    (other / "README.md").write_text("not the model")
    (other / "optimizer.pt").write_bytes(b"not the model either")
    assert identity(one, tmp_path) == identity(other, tmp_path) == identity("./one", tmp_path)
    assert str(tmp_path) not in json.dumps(identity(one, tmp_path))
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert identity(one, tmp_path) != identity(other, tmp_path)


def test_a_relative_folder_starts_from_where_the_command_was_given(tmp_path: Path) -> None:
    copied("gpt2", tmp_path / "models" / "mine")
    pinned = TRAINABLE.pin(BaseModelConfig(source="models/mine"), FolderPlanner(tmp_path))
    assert pinned.source == str(tmp_path / "models" / "mine")


def test_only_what_applies_to_a_source_enters_its_identity(tmp_path: Path) -> None:
    folder = copied("llama", tmp_path / "one")
    assert identity(folder, tmp_path, seed=1) == identity(folder, tmp_path, seed=2)
    assert identity("tiny-llama", tmp_path, seed=1) != identity("tiny-llama", tmp_path, seed=2)
    assert identity("smollm2-135m", tmp_path, seed=1) == identity("smollm2-135m", tmp_path, seed=2)


def test_bystanders_and_code_are_not_copied_and_trusted_code_is(tmp_path: Path) -> None:
    folder = copied("gpt2", tmp_path / "one")
    for name in ("notes.md", "modeling.py", "optimizer.pt"):
        (folder / name).write_text("x = 1")
    drive("base_model", {"source": str(folder)}, tmp_path / "plain")
    drive("base_model", {"source": str(folder), "trust_remote_code": True}, tmp_path / "trusted")
    assert not {"notes.md", "modeling.py", "optimizer.pt"} & names(tmp_path / "plain")
    assert "modeling.py" in names(tmp_path / "trusted")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def rewritten(name: str, text: str) -> Any:
    return lambda folder: (folder / name).write_text(text)


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_large_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 5000, "content": "<|more|>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("config.json"), "has no config.json"),
        (rewritten("config.json", "{"), "config.json is not JSON"),
        (rewritten("config.json", "[]"), "holds a list instead of a JSON object"),
        (rewritten("config.json", "{}"), "names no model_type"),
        (without("model.safetensors"), "has no weights"),
        (truncated, "is cut off"),
        (pickled, "pickled weights only"),
        (without_tokenizer, "has no tokenizer"),
        (with_large_tokenizer, "the tokenizer has a token 5000 but the embeddings only 397 rows"),
    ],
)
def test_a_damaged_folder_is_refused_while_planning(damage: Any, message: str, tmp_path: Path) -> None:
    folder = copied("llama", tmp_path / "model")
    damage(folder)
    assert message in refused(folder, tmp_path)


def test_sources_that_are_nothing_are_refused_with_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Did you mean 'tiny-qwen2'?" in refused("tiny-qwen", tmp_path)
    assert "no folder" in refused("./nothing", tmp_path)
    assert "is a file" in refused("./file", tmp_path)
    assert "only a hub id has revisions" in refused("tiny-gpt2", tmp_path, revision="main")


def test_weights_that_lack_a_tensor_are_refused_before_the_run_ends(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copied("qwen2", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights of its model, first model\.layers\.1\.mlp\.up_proj\.weight"):
        drive("base_model", {"source": str(folder)}, tmp_path / "out")


def test_a_given_teacher_of_another_shape_is_refused_while_planning_and_before_it_is_copied(tmp_path: Path) -> None:
    teacher = {"source": str(base_model("llama")), "match_base": True}
    prepare("base_model", teacher, {"base_model": base_model("llama")}, tmp_path)
    with pytest.raises(InputError, match=r"the given teacher .* does not fit the base model: "):
        prepare("base_model", teacher, {"base_model": base_model("qwen2")}, tmp_path)
    with pytest.raises(InputError, match="does not fit"):
        drive(
            "base_model",
            {"source": "tiny-gpt2", "match_base": True},
            tmp_path / "o",
            inputs={"base_model": base_model("llama")},
        )


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_a_hub_id_that_is_not_in_the_cache_offline_says_how_to_get_it(offline: Path, tmp_path: Path) -> None:
    said = refused("someone/model", tmp_path)
    assert "not in the cache" in said
    assert "hf download someone/model" in said


def test_a_hub_id_is_pinned_to_the_commit_that_the_cache_knows_and_runs_from_it(offline: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = offline / "models--someone--model"
    shutil.copytree(base_model("gpt2"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert identity("someone/model", tmp_path)["content"] == commit
    assert identity("someone/model", tmp_path) == identity("someone/model", tmp_path, revision=commit)
    assert drive("base_model", {"source": "someone/model"}, tmp_path / "out")["layers"] == 2


@pytest.mark.slow
def test_smollm2_is_fetched_converted_and_answers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    metrics = drive("base_model", {"source": "smollm2-135m"}, tmp_path / "smollm2")
    assert (metrics["parameters"], metrics["layers"], metrics["vocabulary"]) == (134_515_008, 30, 49_152)
    assert {info.dtype for info in read_headers(tmp_path / "smollm2").values()} == {"F32"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "smollm2").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "smollm2")
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
