"""Evaluation against transformers itself: loss by its own cross-entropy, answers by its own generate, one by one."""

from __future__ import annotations

import csv
import functools
import json
import math
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainables.driver import Driven, drive, execute
from tests.trainables.tiny_models import FAMILIES, base_model
from trainables import find
from trainables.answers import Decoding, generate
from trainables.base import InputError, Place, Stopped
from trainables.evaluate import EvaluateConfig
from trainables.targets import read_layout, select
from trainables.training.examples import load_examples, load_items
from trainables.training.prompt_cache import common_prefix, fill_cache

SUMS = {
    "source": "chain_sum",
    "generator": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    "items": 60,
    "max_length": 160,
    "validation": 6,
    "test": 14,
}
FP32 = {"precision": "fp32", "max_new_tokens": 5}


@functools.cache
def dataset(family: str, **changes) -> Path:
    """Sums, tokenised for one family."""
    folder = Path(tempfile.mkdtemp()) / "dataset"
    drive("dataset", {**SUMS, **changes}, folder, inputs={"base_model": base_model(family)})
    return folder


@functools.cache
def teacher(family: str) -> Path:
    """A teacher whose linear layers alone differ from the base's, enough to change its answers."""
    folder = Path(tempfile.mkdtemp()) / "teacher"
    shutil.copytree(base_model(family), folder)
    targets = {linear.weight for linear in select(read_layout(folder), "all-linear")}
    draw = torch.Generator().manual_seed(5)
    tensors = load_file(folder / "model.safetensors")
    for name in sorted(targets):
        tensors[name] = tensors[name] + 0.1 * torch.randn(tensors[name].shape, generator=draw)
    save_file(tensors, folder / "model.safetensors")
    return folder


@functools.cache
def export(family: str) -> Path:
    """The full-rank export of that teacher."""
    folder = Path(tempfile.mkdtemp()) / "export"
    drive("svd_export", {"rank": 64}, folder, inputs={"base_model": base_model(family), "teacher": teacher(family)})
    return folder


def evaluate(family: str, subject: Path, folder: Path, **settings) -> Driven:
    place = Place(evaluation_batch_size=settings.pop("batch_size", 4))
    data = settings.pop("data", None) or dataset(family)
    inputs = {"base_model": base_model(family), "dataset": data, "subject": subject}
    return execute("evaluate", {**FP32, **settings}, folder, inputs=inputs, place=place)


def read_answers(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def read_outcomes(folder: Path) -> list[dict]:
    with (folder / "items.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_accuracy_are_those_of_transformers_item_by_item(tmp_path, family):
    metrics = evaluate(family, base_model(family), tmp_path).metrics
    model = AutoModelForCausalLM.from_pretrained(base_model(family))
    summed, hits, tokens = 0.0, 0, 0
    for example in load_examples(dataset(family), "test"):
        ids = torch.tensor([example.input_ids])
        labels = ids.clone()
        labels[:, : example.prompt_length] = -100
        with torch.no_grad():
            out = model(input_ids=ids, labels=labels)
        count = len(example.input_ids) - example.prompt_length
        summed += float(out.loss) * count
        hits += int((out.logits[0, example.prompt_length - 1 : -1].argmax(-1) == ids[0, example.prompt_length :]).sum())
        tokens += count
    assert metrics["test_loss"] == pytest.approx(summed / tokens, abs=1e-5)
    assert metrics["test_perplexity"] == pytest.approx(math.exp(summed / tokens), rel=1e-5)
    assert metrics["test_token_accuracy"] == pytest.approx(hits / tokens)
    assert metrics["test_items"] == 14


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_generate_one_by_one_without_padding(tmp_path, family):
    """The teacher's random weights make answers that differ from prompt to prompt."""
    evaluate(family, teacher(family), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(base_model(family))
    model = AutoModelForCausalLM.from_pretrained(teacher(family))
    expected = []
    for example in load_examples(dataset(family), "test"):
        ids = torch.tensor([example.input_ids[: example.prompt_length]])
        new = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=5)
        expected.append(tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True))
    answers = read_answers(tmp_path)
    assert [answer["given"] for answer in answers] == expected
    assert len(set(expected)) > 1
    assert [answer["id"] for answer in answers] == [item["id"] for item in load_items(dataset(family), "test")]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_of_what_prompts_share_changes_no_answer(family):
    model = AutoModelForCausalLM.from_pretrained(teacher(family)).eval()
    draw = torch.Generator().manual_seed(1)

    def tokens(count):
        return torch.randint(10, 200, (count,), generator=draw).tolist()

    begin = tokens(20)
    prompts = [begin + tokens(2 + index % 4) for index in range(9)]
    assert common_prefix(prompts) == begin
    decoding = Decoding(6, (1,), 0)
    with torch.inference_mode():
        cache = fill_cache(model, begin)
        cached = generate(model, prompts, decoding, cache)
        assert cached == generate(model, prompts, decoding)
        assert cached == generate(model, prompts, decoding, cache)  # the cache itself was not extended
    assert len({tuple(answer) for answer in cached}) > 1


def test_a_prefix_stops_short_of_a_whole_prompt_and_of_what_saves_nothing():
    same = list(range(12))
    assert common_prefix([same, same]) == same[:-1]
    assert common_prefix([same, [*same[:9], 99, 98]]) == same[:9]
    assert common_prefix([same, [*same[:3], 99, 98]]) == []
    assert common_prefix([same]) == common_prefix([[], []]) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_rank_truncated_teacher_is_the_teacher(tmp_path, family):
    whole = evaluate(family, teacher(family), tmp_path / "teacher").metrics
    factors = evaluate(family, export(family), tmp_path / "export", rank=64).metrics
    base = evaluate(family, base_model(family), tmp_path / "base").metrics
    assert factors["test_loss"] == pytest.approx(whole["test_loss"], abs=1e-4)
    assert abs(base["test_loss"] - whole["test_loss"]) > 5e-4
    assert factors["energy"] == pytest.approx(1, abs=1e-6)
    assert read_answers(tmp_path / "export") == read_answers(tmp_path / "teacher")
    assert read_answers(tmp_path / "base") != read_answers(tmp_path / "teacher")


def test_the_energy_of_a_truncated_teacher_is_that_of_the_export(tmp_path):
    export_metrics = drive(
        "svd_export",
        {"rank": 8},
        tmp_path / "export",
        inputs={"base_model": base_model("qwen2"), "teacher": teacher("qwen2")},
    )
    metrics = evaluate("qwen2", tmp_path / "export", tmp_path / "run", rank=4).metrics
    assert metrics["energy"] == pytest.approx(export_metrics["energy_4"], rel=1e-6)
    assert 0 < metrics["energy"] < 0.9


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("use_rslora", [False, True])
def test_a_student_is_tested_as_it_was_trained_and_equals_its_merged_model(tmp_path, family, use_rslora):
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=6, use_rslora=use_rslora, target_modules="all-linear", task_type="CAUSAL_LM",
        init_lora_weights=False,
    )  # fmt: skip
    torch.manual_seed(2)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_model(family)), config)
    model.save_pretrained(tmp_path / "student" / "adapter")
    merged = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_model(family)), tmp_path / "student" / "adapter"
    ).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    student = evaluate(family, tmp_path / "student", tmp_path / "a").metrics
    whole = evaluate(family, tmp_path / "merged", tmp_path / "b").metrics
    assert student["test_loss"] == pytest.approx(whole["test_loss"], abs=1e-5)
    assert read_answers(tmp_path / "a") == read_answers(tmp_path / "b")
    base = evaluate(family, base_model(family), tmp_path / "c").metrics
    assert abs(student["test_loss"] - base["test_loss"]) > 1e-3


def test_the_batch_size_changes_nothing(tmp_path):
    one = evaluate("qwen2", teacher("qwen2"), tmp_path / "one", batch_size=1)
    all_at_once = evaluate("qwen2", teacher("qwen2"), tmp_path / "all", batch_size=64)
    assert one.metrics["test_loss"] == pytest.approx(all_at_once.metrics["test_loss"], abs=1e-6)
    assert read_answers(tmp_path / "one") == read_answers(tmp_path / "all")
    assert [progress.step for progress in one.progress] == [0, *range(1, 16)]


def test_right_answers_are_counted_by_the_tasks_own_checker(tmp_path):
    """Memorise the test set, and every answer is right; forget it, and none is."""
    folder = tmp_path / "fitted"
    shutil.copytree(base_model("qwen2"), folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    examples = load_examples(dataset("qwen2"), "test")[:3]
    for _ in range(80):
        for example in examples:
            ids = torch.tensor([example.input_ids])
            labels = ids.clone()
            labels[:, : example.prompt_length] = -100
            model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    metrics = evaluate("qwen2", folder, tmp_path / "run", items=3).metrics
    assert (metrics["test_correct"], metrics["test_accuracy"], metrics["test_items"]) == (3, 1.0, 3)
    answers = read_answers(tmp_path / "run")
    assert [answer["given"].strip() for answer in answers] == [answer["reference"] for answer in answers]
    assert all(answer["correct"] for answer in answers)
    untrained = evaluate("qwen2", base_model("qwen2"), tmp_path / "untrained").metrics
    assert (untrained["test_correct"], untrained["test_accuracy"]) == (0, 0.0)


def test_text_without_answers_has_a_loss_and_no_accuracy(tmp_path):
    lines = [{"text": f"line {index} says {index * 7} and nothing else of interest"} for index in range(60)]
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    inputs = {"base_model": base_model("gpt2")}
    config = {"source": str(source), "block_length": 32, "validation": 6, "test": 6, "max_length": 64}
    drive("dataset", config, tmp_path / "data", inputs=inputs)
    metrics = evaluate("gpt2", base_model("gpt2"), tmp_path / "run", data=tmp_path / "data").metrics
    assert metrics["test_loss"] > 0
    assert (metrics["test_correct"], metrics["test_accuracy"]) == (None, None)
    assert not (tmp_path / "run" / "answers.jsonl").exists()
    assert {item["correct"] for item in read_outcomes(tmp_path / "run")} == {""}


def test_the_outcomes_of_the_items_are_those_that_the_metrics_sum_up(tmp_path):
    metrics = evaluate("llama", teacher("llama"), tmp_path).metrics
    outcomes, answers = read_outcomes(tmp_path), read_answers(tmp_path)
    assert [item["item"] for item in outcomes] == [answer["id"] for answer in answers]
    assert [item["correct"] == "1" for item in outcomes] == [answer["correct"] for answer in answers]
    tokens = [int(item["tokens"]) for item in outcomes]
    nats = sum(float(item["loss"]) * count for item, count in zip(outcomes, tokens, strict=True))
    assert nats / sum(tokens) == pytest.approx(metrics["test_loss"], rel=1e-12)


def test_the_validation_split_names_its_own_metrics(tmp_path):
    metrics = evaluate("llama", base_model("llama"), tmp_path, split="validation").metrics
    assert metrics["validation_items"] == 6
    assert not any(name.startswith("test_") for name in metrics)


def test_bf16_follows_fp32_closely(tmp_path):
    exact = evaluate("llama", export("llama"), tmp_path / "a", rank=8).metrics
    rounded = evaluate("llama", export("llama"), tmp_path / "b", rank=8, precision="bf16").metrics
    assert rounded["test_loss"] == pytest.approx(exact["test_loss"], rel=0.01)
    assert rounded["test_loss"] != exact["test_loss"]


def test_a_loss_over_whole_sequences_keeps_the_prompts(tmp_path):
    data = dataset("qwen2", completion_only=False)
    metrics = evaluate("qwen2", teacher("qwen2"), tmp_path / "whole", data=data).metrics
    evaluate("qwen2", teacher("qwen2"), tmp_path / "completions")
    assert read_answers(tmp_path / "whole") == read_answers(tmp_path / "completions")
    model = AutoModelForCausalLM.from_pretrained(teacher("qwen2"))
    summed, tokens = 0.0, 0
    for example in load_examples(data, "test"):
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            summed += float(model(input_ids=ids, labels=ids).loss) * (len(example.input_ids) - 1)
        tokens += len(example.input_ids) - 1
    assert metrics["test_loss"] == pytest.approx(summed / tokens, abs=1e-5)


def test_a_stop_is_obeyed_between_batches(tmp_path):
    inputs = {"base_model": base_model("qwen2"), "dataset": dataset("qwen2"), "subject": base_model("qwen2")}
    place = Place(evaluation_batch_size=4)
    with pytest.raises(Stopped):
        execute("evaluate", FP32, tmp_path / "run", inputs=inputs, place=place, stop_after=3)
    assert not list((tmp_path / "run").iterdir())


def test_planning_refuses_a_rank_that_does_not_fit(tmp_path):
    check = find("evaluate").check
    base = {"base_model": base_model("qwen2")}
    with pytest.raises(InputError, match="rank 65 is above what any layer of the base model has; use at most 64"):
        check(EvaluateConfig(rank=65), base)
    with pytest.raises(InputError, match=r"evaluate.rank is missing"):
        check(EvaluateConfig(), {**base, "subject": export("qwen2")})
    with pytest.raises(InputError, match=r"evaluate.rank=4 is for a truncated teacher"):
        check(EvaluateConfig(rank=4), {**base, "subject": teacher("qwen2")})


def test_auto_precision_is_resolved_by_pin():
    pinned = find("evaluate").pin(EvaluateConfig(), None)
    assert pinned.precision in ("bf16", "fp32")
    assert find("evaluate").pin(EvaluateConfig(precision="fp16"), None).precision == "fp16"


def test_an_evaluation_says_nothing_on_the_terminal(tmp_path, capfd):
    evaluate("llama", export("llama"), tmp_path / "run", rank=4)
    capfd.readouterr()
    evaluate("llama", base_model("llama"), tmp_path / "again")
    evaluate("llama", export("llama"), tmp_path / "export", rank=4)
    assert capfd.readouterr() == ("", "")
