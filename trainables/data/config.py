"""What decides a dataset: which records, what their fields mean, how they are split and made tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from trainables.base import Config
from trainables.data.formats import Format
from trainables.data.records import READERS

Kind: TypeAlias = Literal["generated", "file", "hub"]
UNUSED: Mapping[Kind, set[str]] = {
    "generated": {"revision", "subset", "hub_split", "format", "prompt", "answer", "block_length"},
    "file": {"source", "revision", "subset", "hub_split", "generator", "items", "seed"},
    "hub": {"revision", "generator", "items", "seed"},
}
"""Settings that do not apply to a kind of source, and so do not make another dataset of it."""
NO_TEMPLATE = "the base model's tokenizer has no chat template: --set dataset.chat_template=false"


class DatasetConfig(Config):
    """Which records, what their fields mean, how they are split and turned into tokens."""

    OF_SOURCE: ClassVar[frozenset[str]] = frozenset(
        {"revision", "subset", "hub_split", "generator", "items", "format", "prompt", "completion", "answer", "task"}
        | {"max_length", "validation", "test"}
    )
    """Settings that a study chose for its own source: they are dropped when another source is named."""

    source: str = Field(description="a reasoning-gym task (chain_sum), a file (.json .jsonl .csv .parquet) or a hub id")
    revision: str | None = Field(None, description="of a hub id: branch, tag or commit; default: main")
    subset: str | None = Field(None, description="of a hub id: the configuration, where it has several")
    hub_split: str = Field("train", description="of a hub id: the split that is read, and split again here")
    generator: dict[str, Any] = Field(default_factory=dict, description="parameters of the reasoning-gym task")
    items: int = Field(1000, ge=3, description="distinct items to generate")
    seed: int = Field(1, ge=0, lt=2**63, description="of generated items")
    format: Literal["auto"] | Format = Field("auto", description="auto: by the fields of the first record")
    prompt: str | None = Field(None, description="name of the field with the prompt; default: by format")
    completion: str | None = Field(
        None, description="field with the completion; default: by format, or the bare answer"
    )
    answer: str | None = Field(None, description="name of the field with the right answer; default: the completion")
    task: str | None = Field(None, description="how answers are judged; default: by source and answers")
    chat_template: bool = Field(False, description="put prompts through the tokenizer's chat template")
    system: str | None = Field(None, description="system message; empty: none but what the template insists on")
    separator: str = Field("\n", description="between prompt and completion, where no chat template is used")
    max_length: int | None = Field(
        None, ge=2, description="tokens of prompt and completion; default: the model's limit"
    )
    too_long: Literal["drop", "truncate"] = "drop"
    completion_only: bool = Field(True, description="the loss counts completion tokens only")
    block_length: int = Field(256, ge=2, description="tokens of a block of plain text")
    validation: int | float = Field(0.1, gt=0, description="records to validate on: a number, or a share below 1")
    test: int | float = Field(0.1, gt=0, description="records to test on: a number, or a share below 1")
    split_seed: int = Field(1, ge=0, description="of the split")
    folds: int | None = Field(None, ge=2, description="parts for cross-fitting: each is the test side of one fold")
    fold: int = Field(0, ge=0, description="which of the folds is the test side, counted from 0")
    part: Literal["all", "first", "second"] = Field(
        "all", description="of the training side: all, or one of its two halves; validation and test stay the same"
    )
    pinned: str | None = Field(None, description="content found at planning: digest, commit or generator version")

    @model_validator(mode="after")
    def _fits(self) -> DatasetConfig:
        for name in ("validation", "test"):
            share = getattr(self, name)
            if isinstance(share, float) and share >= 1:
                raise ValueError(f"{name}={share} is no share below 1; for a number of records write {round(share)}")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold={self.fold} of {self.folds} folds; they are counted from 0")
        return self

    def identity(self) -> dict[str, Any]:
        """Return what decides the data: its content instead of its path, without settings that do not apply."""
        unused = UNUSED[kind_of(self)] | ({"folds", "fold"} if self.folds is None else {"test"})
        unused |= {"separator"} if self.chat_template else set()
        unused |= {"part"} if self.part == "all" else set()
        values = {name: value for name, value in super().identity().items() if name not in unused}
        return {"kind": kind_of(self), **values}


def kind_of(config: DatasetConfig) -> Kind:
    """Return where the records come from; after `pin`, a file is an absolute path."""
    source = config.source
    if source.startswith(("/", ".", "~")) or Path(source).suffix.lower() in READERS:
        return "file"
    return "hub" if "/" in source else "generated"
