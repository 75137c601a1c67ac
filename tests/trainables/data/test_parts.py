"""Halves of the training side, and folds that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainables.driver import FolderPlanner
from tests.trainables.test_dataset import QUESTIONS, identity, made, prompts, refused, written
from trainables.base import InputError
from trainables.data.config import DatasetConfig
from trainables.data.formats import Sample
from trainables.data.splitting import half
from trainables.dataset import TRAINABLE, recommend, untested


@pytest.mark.parametrize("more", [{}, {"folds": 3, "fold": 1}])
def test_halves_of_the_training_side_are_disjoint_and_leave_validation_and_test_alone(
    more: dict[str, Any], tmp_path: Path
) -> None:
    file = str(written(tmp_path / "train.json", QUESTIONS))
    for part in ("all", "first", "second"):
        made(tmp_path / part, source=file, part=part, **more)
    whole, first, second = (prompts(tmp_path / part) for part in ("all", "first", "second"))
    assert set(first["train"]) | set(second["train"]) == set(whole["train"])
    assert not set(first["train"]) & set(second["train"])
    assert abs(len(first["train"]) - len(second["train"])) <= 1
    for name in ("validation", "test"):
        assert first[name] == second[name] == whole[name]


def test_one_question_with_two_answers_is_in_one_half() -> None:
    samples = [Sample((("user", f"q{i // 2}"),), str(i), str(i)) for i in range(20)]
    first, second = (half(samples, part, seed=1) for part in ("first", "second"))
    assert {s.prompt for s in first} | {s.prompt for s in second} == {s.prompt for s in samples}
    assert not {s.prompt for s in first} & {s.prompt for s in second}
    assert half(samples[::-1], "first", seed=1) == first[::-1]
    assert half(samples, "first", seed=2) != first


def test_a_half_of_one_question_is_refused() -> None:
    with pytest.raises(InputError, match=r"dataset.part=second is empty: the training side has 2 records with 1"):
        half([Sample((("user", "q"),), answer, answer) for answer in "ab"], "second", seed=1)


def test_the_part_is_identity_but_the_whole_is_what_it_was(tmp_path: Path) -> None:
    halves = [identity(tmp_path, source="chain_sum", part=part) for part in ("first", "second")]
    whole = identity(tmp_path, source="chain_sum", part="all")
    assert halves[0] != halves[1]
    assert whole == identity(tmp_path, source="chain_sum")
    assert "part" not in whole


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"source": "chain_sum", "items": 4, "folds": 5}, "dataset.folds=5 but there are only 4 items: lower it"),
        (
            {"source": "chain_sum", "items": 60, "folds": 2, "validation": 30},
            "validation + one of 2 folds are 60 of 60",
        ),
        ({"source": "good.json", "folds": 82}, "dataset.folds=82 but there are only 81 distinct prompts: lower it"),
        ({"source": "good.json", "folds": 2, "validation": 41}, "leaves nothing of the 40 records outside fold 0"),
        ({"source": "few.json", "folds": 2, "validation": 1, "part": "second"}, "dataset.part=second is empty"),
    ],
)
def test_folds_that_leave_too_little_are_refused_while_planning(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    written(tmp_path / "good.json", QUESTIONS)
    written(tmp_path / "few.json", QUESTIONS[:4])
    assert message in refused(tmp_path, **config)


def test_the_advice_is_an_option_that_can_be_pasted_and_names_folds_that_are_left_out(tmp_path: Path) -> None:
    written(tmp_path / "train.json", QUESTIONS)
    config = TRAINABLE.pin(DatasetConfig(source="train.json"), FolderPlanner(tmp_path))
    (advice,) = recommend(config)
    assert "--set dataset.folds=5 --axis dataset.fold=0,1,2,3,4" in advice
    folds = [config.model_copy(update={"folds": 5, "fold": fold}) for fold in range(5)]
    assert untested(folds) == untested([config]) == []
    (left_out,) = untested(folds[:1])
    assert left_out.startswith("1 of 5 folds: the records of the others are never tested")
