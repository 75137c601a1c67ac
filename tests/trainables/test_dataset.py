"""The dataset: files of every kind and every malformation, splits, folds, tokens, and what enters the identity."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import trainables
from tests.trainables.driver import Driven, FolderPlanner, execute, prepare
from tests.trainables.tiny_models import FAMILIES, base_model
from trainables.base import InputError
from trainables.data.config import DatasetConfig
from trainables.data.formats import Sample
from trainables.data.splitting import key, split, split_fold, without_duplicates
from trainables.dataset import TRAINABLE, count_records, recommend
from trainables.training.examples import SPLITS, load_examples, load_facts, load_items

QUESTIONS = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(81)]
SUMS = {"source": "chain_sum", "generator": {"max_terms": 3, "max_digits": 2}, "items": 60}


def written(path: Path, records: Any) -> Path:
    """Write records in the format of the suffix."""
    if path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, records[0])
            writer.writeheader()
            writer.writerows(records)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


def made(folder: Path, family: str = "llama", **config: Any) -> Driven:
    return execute("dataset", config, folder, inputs={"base_model": base_model(family)})


def refused(directory: Path, **config: Any) -> str:
    """Return the one line with which planning refuses the config."""
    with pytest.raises(InputError) as caught:
        prepare("dataset", config, {"base_model": base_model("llama")}, directory)
    message = str(caught.value)
    assert "\n" not in message
    return message


def identity(directory: Path, **config: Any) -> dict[str, Any]:
    return dict(TRAINABLE.pin(DatasetConfig(**config), FolderPlanner(directory)).identity())


def prompts(folder: Path) -> dict[str, list[str]]:
    return {name: [item["prompt"] for item in load_items(folder, name)] for name in SPLITS}


def test_the_trainable_is_found_by_its_name_and_prepares() -> None:
    assert trainables.find("dataset") is TRAINABLE
    assert (TRAINABLE.name, TRAINABLE.version, TRAINABLE.prepares) == ("dataset", 1, True)
    assert TRAINABLE.needed_roles(DatasetConfig(source="chain_sum")) == ("base_model",)
    assert len(TRAINABLE.source_digest(DatasetConfig(source="chain_sum"))) == 16


def test_planning_imports_neither_torch_nor_the_generators(tmp_path: Path) -> None:
    file = written(tmp_path / "train.json", QUESTIONS)
    code = f"""
import sys
from pathlib import Path
from tests.trainables.driver import prepare
prepare("dataset", {SUMS!r}, {{}}, Path("."))
prepare("dataset", {{"source": {str(file)!r}}}, {{}}, Path("."))
prepare("base_model", {{"source": "tiny-gpt2"}}, {{}}, Path("."))
heavy = ("torch", "transformers", "reasoning_gym", "numpy", "datasets", "pyarrow", "huggingface_hub")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# -- records ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_a_flat_list_of_81_questions_works_as_it_is_in_every_file_format(suffix: str, tmp_path: Path) -> None:
    file = written(tmp_path / f"train{suffix}", QUESTIONS)
    driven = made(tmp_path / "out", source=str(file))
    counts = [driven.metrics[f"{name}_items"] for name in SPLITS]
    assert counts == [65, 8, 8]
    assert driven.metrics["records"] == 81
    assert driven.metrics["task"] == "maths"
    answers = {item["prompt"]: item["answer"] for name in SPLITS for item in load_items(tmp_path / "out", name)}
    assert answers == {record["question"] + "\n": record["answer"] for record in QUESTIONS}


def test_all_file_formats_give_the_same_tokens(tmp_path: Path) -> None:
    contents = set()
    for suffix in (".json", ".jsonl", ".csv", ".parquet"):
        folder = tmp_path / suffix[1:]
        made(folder, source=str(written(tmp_path / f"train{suffix}", QUESTIONS)))
        contents.add(tuple((folder / f"{name}.safetensors").read_bytes() for name in SPLITS))
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("records", "config", "prompt", "completion"),
    [
        ({"prompt": "a b", "completion": "c"}, {}, "a b\n", "c"),
        ({"question": "q", "solution": "s"}, {"completion": "solution"}, "q\n", "s"),
        ({"frage": "f", "antwort": 7}, {"prompt": "frage", "completion": "antwort"}, "f\n", "7"),
        ({"instruction": "Add.", "input": "1, 2", "output": "3"}, {}, "Add.\n\n1, 2\n", "3"),
        ({"instruction": "Say hi.", "input": "", "output": "hi"}, {}, "Say hi.\n", "hi"),
        ({"question": "q", "answer": "a"}, {"system": "Be brief.", "separator": " "}, "Be brief. q ", "a"),
        ({"question": "q", "answer": "a"}, {"chat_template": True}, "<|user|>q<|assistant|>", "a"),
        (
            {"question": "q", "answer": "a"},
            {"chat_template": True, "system": "Be brief."},
            "<|system|>Be brief.<|user|>q<|assistant|>",
            "a",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "u1"},
                    {"role": "assistant", "content": "a1"},
                    {"role": "user", "content": "u2"},
                    {"role": "assistant", "content": "a2"},
                ]
            },
            {"chat_template": True},
            "<|user|>u1<|assistant|>a1<|end|><|user|>u2<|assistant|>",
            "a2",
        ),
    ],
)
def test_each_format_becomes_prompt_and_completion(
    records: dict[str, Any], config: dict[str, Any], prompt: str, completion: str, tmp_path: Path
) -> None:
    others = [with_other_prompt(records, number) for number in range(3)]
    file = written(tmp_path / "train.jsonl", [records, *others])
    made(tmp_path / "out", source=str(file), validation=1, test=1, **config)
    items = {item["prompt"]: item["completion"] for name in SPLITS for item in load_items(tmp_path / "out", name)}
    assert items[prompt] == completion


def with_other_prompt(record: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a copy whose first field, or first message, says something else."""
    name, value = next(iter(record.items()))
    if isinstance(value, str):
        return {**record, name: f"{value}{number}"}
    return {**record, name: [{**value[0], "content": f"{value[0]['content']}{number}"}, *value[1:]]}


def test_a_separate_field_can_hold_the_right_answer(tmp_path: Path) -> None:
    records = [{"question": f"q{i}", "solution": f"so {i}", "result": i} for i in range(9)]
    file = written(tmp_path / "train.json", records)
    made(tmp_path / "out", source=str(file), completion="solution", answer="result")
    item = load_items(tmp_path / "out", "test")[0]
    assert item["completion"] == f"so {item['answer']}"
    assert load_facts(tmp_path / "out")["task"] == "maths"


GOOD = '[\n {"question": "q1", "answer": "a"},\n {"question": "q2", "answer": "b"}'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.json", b"", "is empty"),
        ("train.json", b"[]", "holds no records"),
        ("train.json", b"hello", "line 1: not a JSON list of records"),
        ("train.json", b'{"question": "q"}', "JSON lines belong into a .jsonl file"),
        ("train.json", (GOOD + ',\n {"question": }]').encode(), "train.json line 4 (record 3): not JSON"),
        ("train.json", GOOD.encode(), "train.json line 3 (record 2): not JSON after it"),
        ("train.json", (GOOD + ",\n 7]").encode(), "train.json line 4 (record 3): holds a number instead of an object"),
        (
            "train.json",
            (GOOD + ',\n {"question": "q", "solution": "s"}]').encode(),
            "train.json line 4 (record 3): no field 'answer'. Found: question, solution. "
            "Map it with --set dataset.completion=solution",
        ),
        ("train.json", (GOOD + ',\n {"question": "q", "answer": " "}]').encode(), "field 'answer' is empty"),
        ("train.json", (GOOD + ',\n {"question": "q", "answer": null}]').encode(), "field 'answer' is null"),
        ("train.json", (GOOD + ',\n {"question": "q", "answer": ["a"]}]').encode(), "is a list instead of text"),
        ("train.json", b'[{"name": "x"}]', "no format has its fields. Found: name. Map them with"),
        ("train.json", '[\n{"question": "é"}]'.encode("latin-1"), "train.json line 2: byte 0xe9 is not UTF-8"),
        ("train.jsonl", b'{"question": "q", "answer": "a"}\n\n{"question"', "train.jsonl line 3: not JSON"),
        ("train.jsonl", b'[{"question": "q"}]', "holds a list instead of an object"),
        ("train.jsonl", b"[\n1]", "a JSON list belongs into a .json file"),
        ("train.csv", b"question,answer\nq,a\nq,a,b\n", "train.csv line 3: 3 values for 2 columns"),
        ("train.csv", b'question,answer\n"two\nlines",a\nq\n', "train.csv line 4: 1 values for 2 columns"),
        ("train.csv", b'question,answer\n"q,a\n', "not CSV"),
        ("train.csv", b"question,question\nq,a\n", "a column is named twice"),
        ("train.csv", b"question,answer\n", "holds no records"),
        ("train.csv", b"frage,antwort\nq,a\n", "Found: frage, antwort"),
        ("train.csv", b"question,answer\nq,\n", "train.csv line 2: field 'answer' is empty"),
        ("train.parquet", b"PAR1", "no Parquet file, or a damaged one"),
        ("train.jsonl", b'{"messages": []}', "must be a list of at least two messages"),
        (
            "train.jsonl",
            b'{"messages": [{"role": "user", "content": "q"}, {"role": "user", "content": "r"}]}',
            "last message",
        ),
        ("train.jsonl", b'{"messages": [{"role": "bot", "content": "q"}, {}]}', "message 1 has the role 'bot'"),
        (
            "train.jsonl",
            b'{"messages": [{"role": "user", "content": "q"}, {}]}',
            "message 2 is not an object with role",
        ),
        ("train.txt", b"hello", "cannot read .txt; known: .json, .jsonl, .csv, .parquet"),
    ],
)
def test_a_malformed_file_is_refused_while_planning_by_file_and_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in refused(tmp_path, source=f"./{name}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"source": "missing.json"}, "no file"),
        ({"source": "."}, "is a folder"),
        ({"source": "chain_sun"}, "Did you mean 'chain_sum'?"),
        (
            {"source": "chain_sum", "generator": {"terms": 2}},
            "chain_sum has no parameter 'terms'. Known: allow_negation",
        ),
        ({"source": "chain_sum", "generator": {"seed": 2}}, "seed is a setting of the dataset itself"),
        ({"source": "chain_sum", "generator": {"min_terms": 9}}, "max_terms must be >= min_terms"),
        ({"source": "chain_sum", "generator": {"min_terms": "x"}}, "chain_sum refuses min_terms=x"),
        ({"source": "chain_sum", "task": "math"}, "no task named 'math'. Did you mean 'maths'?"),
        ({"source": "chain_sum", "items": 100, "test": 60, "validation": 40}, "100 of 100 items"),
        ({"source": "chain_sum", "max_length": 9999}, "more than the base model can take: 512"),
        ({"source": "good.json", "test": 60, "validation": 30}, "leave nothing of 81 distinct records to train on"),
        ({"source": "good.json", "folds": 100}, "only 81 distinct prompts"),
        ({"source": "good.json", "completion": "solution"}, "no field 'solution'. Found: question, answer"),
    ],
)
def test_settings_that_do_not_fit_are_refused_while_planning(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    written(tmp_path / "good.json", QUESTIONS)
    assert message in refused(tmp_path, **config)


@pytest.mark.parametrize(
    "config", [{"test": 1.5}, {"validation": 0}, {"folds": 3, "fold": 3}, {"format": "xml"}, {"items": 0}, {"itmes": 9}]
)
def test_values_out_of_range_are_no_config(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DatasetConfig(source="chain_sum", **config)


# -- splits -------------------------------------------------------------------------------------------------

samples = st.builds(
    lambda prompt, answer: Sample((("user", prompt),), answer, answer),
    st.text("aAbB \n", min_size=1, max_size=4).filter(str.strip),
    st.sampled_from(["1", "2", " 1 "]),
)


@given(st.lists(samples, min_size=5, max_size=60), st.integers(0, 5), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=200)
def test_no_prompt_is_on_two_sides_and_no_sample_is_lost(
    drawn: list[Sample], seed: int, validation: int, test: int
) -> None:
    distinct = without_duplicates(drawn)
    try:
        sides = vars(split(distinct, validation=validation, test=test, seed=seed))
    except InputError:
        return
    assert sorted(map(repr, distinct)) == sorted(repr(sample) for side in sides.values() for sample in side)
    keys = [{key(sample) for sample in side} for side in sides.values()]
    assert sum(map(len, keys)) == len(set.union(*keys))
    assert len(sides["test"]) <= test
    assert len(sides["validation"]) <= validation


@given(st.integers(4, 40), st.integers(2, 6), st.integers(0, 3))
def test_over_all_folds_every_sample_is_tested_once(count: int, folds: int, seed: int) -> None:
    if folds >= count - 2:
        return
    drawn = [Sample((("user", f"q{i // 2 if i < 4 else i}"),), str(i), str(i)) for i in range(count)]
    try:
        parts = [split_fold(drawn, folds=folds, fold=fold, validation=1, seed=seed) for fold in range(folds)]
    except InputError:
        return
    tested = [sample.completion for part in parts for sample in part.test]
    assert sorted(tested) == sorted(sample.completion for sample in drawn)
    for part in parts:
        keys = [{key(sample) for sample in side} for side in vars(part).values()]
        assert sum(map(len, keys)) == len(set.union(*keys))
    assert max(len(part.test) for part in parts) - min(len(part.test) for part in parts) <= 2


def test_81_records_in_nine_folds_test_each_once_in_the_artefacts(tmp_path: Path) -> None:
    file = written(tmp_path / "train.json", QUESTIONS)
    tested: list[str] = []
    for fold in range(9):
        made(tmp_path / str(fold), source=str(file), folds=9, fold=fold)
        tested += [item["id"] for item in load_items(tmp_path / str(fold), "test")]
        assert len(load_items(tmp_path / str(fold), "train")) == 64
    assert len(tested) == len(set(tested)) == 81


def test_neither_the_order_of_the_file_nor_new_records_move_a_record_to_another_side(tmp_path: Path) -> None:
    written(tmp_path / "one.json", QUESTIONS)
    written(tmp_path / "two.json", QUESTIONS[::-1])
    for name in ("one", "two"):
        made(tmp_path / name, source=str(tmp_path / f"{name}.json"))
    one, two = prompts(tmp_path / "one"), prompts(tmp_path / "two")
    assert {name: set(one[name]) for name in SPLITS} == {name: set(two[name]) for name in SPLITS}
    made(tmp_path / "other", source=str(tmp_path / "one.json"), split_seed=2)
    assert set(prompts(tmp_path / "other")["test"]) != set(one["test"])


def test_duplicates_are_dropped_counted_and_said(tmp_path: Path) -> None:
    doubled = [*QUESTIONS, QUESTIONS[3], {"question": "what is  4 + 4?", "answer": "8"}]
    driven = made(tmp_path / "out", source=str(written(tmp_path / "train.json", doubled)))
    assert (driven.metrics["records"], driven.metrics["duplicates"]) == (83, 2)
    assert load_facts(tmp_path / "out")["duplicates"] == 2
    assert any("2 duplicates dropped" in line for line in driven.lines)


def test_folds_are_recommended_below_200_records_only(tmp_path: Path) -> None:
    planner = FolderPlanner(tmp_path)
    written(tmp_path / "small.json", QUESTIONS)
    written(tmp_path / "large.json", [{"question": f"q{i}", "answer": "a"} for i in range(200)])
    small, large = (TRAINABLE.pin(DatasetConfig(source=f"{n}.json"), planner) for n in ("small", "large"))
    assert (count_records(small), count_records(large)) == (81, 200)
    assert "81 records leave 8 to test on" in recommend(small)[0]
    assert recommend(large) == recommend(small.model_copy(update={"folds": 5})) == []
    assert count_records(DatasetConfig(source="chain_sum", items=70)) == 70


# -- tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat_template", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_prompt_completion_and_end_and_come_back_as_text(
    family: str, chat_template: bool, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    made(tmp_path / "out", family, **SUMS, chat_template=chat_template)
    tokenizer = AutoTokenizer.from_pretrained(base_model(family))
    for name in SPLITS:
        pairs = list(zip(load_examples(tmp_path / "out", name), load_items(tmp_path / "out", name), strict=True))
        assert pairs
        for example, item in pairs:
            prompt = example.input_ids[: example.prompt_length]
            assert prompt == tokenizer(item["prompt"], add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(example.input_ids) == f"{item['prompt']}{item['completion']}<|end|>"
            assert example.input_ids[-1] == tokenizer.eos_token_id == load_facts(tmp_path / "out")["eos_id"]


def test_the_end_of_a_turn_is_the_templates_own_where_it_differs_from_the_end_of_text(tmp_path: Path) -> None:
    import shutil

    from transformers import AutoTokenizer

    folder = shutil.copytree(base_model("llama"), tmp_path / "model")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template.replace("<|end|>", "{{ '\\n<|system|>\\n' }}"))
    inputs = {"base_model": Path(folder)}
    execute("dataset", {**SUMS, "chat_template": True}, tmp_path / "out", inputs=inputs)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|system|>")
    example = load_examples(tmp_path / "out", "test")[0]
    assert tokenizer.decode(example.input_ids).endswith("\n<|system|>")
    assert load_facts(tmp_path / "out")["eos_id"] == example.input_ids[-1] == end


def test_without_completion_only_the_loss_counts_the_prompt_too(tmp_path: Path) -> None:
    made(tmp_path / "out", **SUMS, completion_only=False)
    assert {example.prompt_length for example in load_examples(tmp_path / "out", "train")} == {0}


def test_too_long_items_are_dropped_or_cut_and_counted(tmp_path: Path) -> None:
    records = [{"question": f"q{i}", "answer": "x" * (90 if i % 4 == 0 else 5)} for i in range(40)]
    file = str(written(tmp_path / "train.json", records))
    dropped = made(tmp_path / "dropped", source=file, max_length=20)
    cut = made(tmp_path / "cut", source=file, max_length=20, too_long="truncate")
    assert (dropped.metrics["dropped"], dropped.metrics["cut"]) == (10, 0)
    assert (cut.metrics["dropped"], cut.metrics["cut"]) == (0, 10)
    assert dropped.metrics["longest"] == cut.metrics["longest"] == 95
    lengths = [len(e.input_ids) for name in SPLITS for e in load_examples(tmp_path / "cut", name)]
    assert max(lengths) == 20
    assert any("dropped as too long" in line for line in dropped.lines)
    assert sum(split["dropped"] for split in load_facts(tmp_path / "dropped")["splits"].values()) == 10


def test_a_prompt_that_fills_the_maximum_is_dropped_even_when_cutting(tmp_path: Path) -> None:
    records = [{"question": "y" * (60 if i == 0 else 2) + str(i), "answer": "x"} for i in range(30)]
    driven = made(
        tmp_path / "out", source=str(written(tmp_path / "t.json", records)), max_length=20, too_long="truncate"
    )
    assert (driven.metrics["dropped"], driven.metrics["cut"]) == (1, 0)


def test_a_maximum_that_leaves_nothing_says_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"nothing of train is left; the longest has \d+ tokens: raise dataset.max_length"
    ):
        made(tmp_path / "out", **SUMS, max_length=5)


def test_plain_text_becomes_blocks_of_equal_length_with_nothing_lost_but_the_rest(tmp_path: Path) -> None:
    records = [{"text": f"Document {i} says {'so ' * (i % 7)}much."} for i in range(60)]
    driven = made(tmp_path / "out", source=str(written(tmp_path / "t.jsonl", records)), block_length=32)
    facts = load_facts(tmp_path / "out")
    assert facts["task"] == "text"
    for name in SPLITS:
        blocks = load_examples(tmp_path / "out", name)
        assert {(len(block.input_ids), block.prompt_length) for block in blocks} == {(32, 0)}
        assert facts["splits"][name]["tokens"] == 32 * len(blocks)
        assert facts["splits"][name]["text_tokens_left"] < 32
    assert driven.metrics["train_items"] == len(load_items(tmp_path / "out", "train"))


# -- generated ----------------------------------------------------------------------------------------------


def test_generated_items_are_as_many_different_ones_as_asked_for_and_the_same_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        driven = made(tmp_path / name, **SUMS, validation=10, test=10)
        assert [driven.metrics[f"{split}_items"] for split in SPLITS] == [40, 10, 10]
    assert prompts(tmp_path / "one") == prompts(tmp_path / "two")
    assert load_facts(tmp_path / "one")["task"] == "reasoning_gym"


def test_neighbouring_seeds_share_hardly_an_item(tmp_path: Path) -> None:
    every: list[set[str]] = []
    for seed in (1, 2):
        made(tmp_path / str(seed), source="chain_sum", items=60, seed=seed)
        every.append({prompt for side in prompts(tmp_path / str(seed)).values() for prompt in side})
    assert len(every[0] & every[1]) <= 2


def test_a_task_with_too_few_different_items_says_how_many_it_has(tmp_path: Path) -> None:
    config = {"source": "chain_sum", "generator": {"max_terms": 2, "max_digits": 1}, "items": 900}
    with pytest.raises(InputError, match=r"chain_sum gave only 200 different items in 18000.*dataset\.items=200"):
        made(tmp_path / "out", **config)


def test_worked_solutions_can_be_learnt_and_are_judged_by_their_last_number(tmp_path: Path) -> None:
    made(tmp_path / "out", source="gsm_symbolic", items=30, completion="answer_cot")
    item = load_items(tmp_path / "out", "test")[0]
    assert len(item["completion"]) > len(item["answer"])
    assert load_facts(tmp_path / "out")["task"] == "maths"


# -- identity -----------------------------------------------------------------------------------------------


def test_a_file_counts_by_its_content_and_not_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    one = written(tmp_path / "one.json", QUESTIONS)
    other = written(tmp_path / "a folder" / "other.json", QUESTIONS)
    assert (
        identity(tmp_path, source=str(one))
        == identity(tmp_path, source=str(other))
        == identity(tmp_path, source="one.json")
    )
    assert str(tmp_path) not in json.dumps(identity(tmp_path, source=str(one)))
    written(other, QUESTIONS[:-1])
    assert identity(tmp_path, source=str(one)) != identity(tmp_path, source=str(other))


def test_settings_that_do_not_apply_are_no_part_of_the_identity(tmp_path: Path) -> None:
    file = str(written(tmp_path / "one.json", QUESTIONS))
    assert identity(tmp_path, source=file, seed=1) == identity(tmp_path, source=file, seed=2)
    assert identity(tmp_path, source="chain_sum", seed=1) != identity(tmp_path, source="chain_sum", seed=2)
    assert identity(tmp_path, source=file, fold=0) == identity(tmp_path, source=file, fold=1)
    folds = [identity(tmp_path, source=file, folds=2, fold=fold) for fold in (0, 1)]
    assert folds[0] != folds[1]


def test_generated_data_counts_by_the_generators_version(tmp_path: Path) -> None:
    import importlib.metadata

    assert identity(tmp_path, source="chain_sum")["pinned"] == importlib.metadata.version("reasoning-gym")


def test_a_hub_dataset_that_cannot_be_reached_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "cannot reach the hub for dataset 'someone/data'" in refused(tmp_path, source="someone/data")


def test_every_generators_parameters_are_known_without_importing_the_package() -> None:
    import dataclasses

    from trainables.data import generated

    names = {task: set(generated.parameter_names(task)) for task in generated.tasks()}
    import reasoning_gym.factory

    for task, known in names.items():
        config = reasoning_gym.factory.DATASETS[task][1]
        assert known == {field.name for field in dataclasses.fields(config)} - {"seed", "size"}
        generated.check_parameters(task, {})
    assert len(names) > 100


def test_a_template_that_refuses_a_role_says_so(tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(base_model("llama"), tmp_path / "model"))
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template = folder / "chat_template.jinja"
    template.write_text(refusing + template.read_text())
    config = {**SUMS, "chat_template": True, "system": "Be brief."}
    with pytest.raises(InputError, match="refuses the turns system, user: no system role"):
        execute("dataset", config, tmp_path / "out", inputs={"base_model": folder})
    template.unlink()
    with pytest.raises(InputError, match="no chat template"):
        prepare("dataset", config, {"base_model": folder}, tmp_path)
