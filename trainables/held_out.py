"""The items that an exported adapter is measured on: a dataset of a store, or any data that one can be made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainables import dataset
from trainables.base import InputError
from trainables.data import sources, splitting
from trainables.data.config import DatasetConfig, kind_of

if TYPE_CHECKING:
    from trainables.export.attempt import Opened
    from trainables.training.examples import Example


@dataclass(frozen=True)
class HeldOut:
    """The items that losses are measured on: their tokens, the token that pads them, and what they are called."""

    examples: Sequence[Example]
    pad_id: int
    name: str

    def check_vocabularies(self, found: Opened) -> None:
        """Raise InputError if one of the models does not know a token of the data: now, not after the last layer."""
        from trainables.export.functional import check_tokens

        for parameter in found.layout.parameters:
            if parameter.has_vocabulary_rows:
                for checkpoint in (found.pair.base, found.pair.tuned):
                    check_tokens(self.examples, checkpoint.info(parameter).shape[0], checkpoint.label)


def check_data(data: DatasetConfig) -> None:
    """Raise InputError for a folder that is no dataset of a store, or a file that cannot be read."""
    folder = Path(data.source)
    if folder.is_dir():
        if not (folder / "test.safetensors").is_file():
            raise InputError(
                f"--data {folder}: the folder is no dataset of a store (it has no test.safetensors); give the folder "
                "of a finished dataset run, a file of records or a hub id"
            )
    elif kind_of(data) == "file":
        sources.read_file(data)


def load_held_out(data: DatasetConfig, most: int, base: Path) -> HeldOut:
    """Return the first `most` items of the data, in the tokens of the base model; all records are held out here.

    The folder of a dataset run gives its test side. Raises InputError where nothing is left to measure on.
    """
    from trainables.training.examples import load_examples, load_facts

    folder = Path(data.source)
    if folder.is_dir():
        return HeldOut(load_examples(folder, "test")[:most], int(load_facts(folder)["pad_id"]), folder.name)
    return _tokenised(data, most, base)


def _tokenised(data: DatasetConfig, most: int, base: Path) -> HeldOut:
    format_name, read = sources.read(data)
    samples = splitting.without_duplicates(read)
    renderer, maximum = dataset.open_renderer(data, base)
    needed = samples if format_name == "text" else samples[:most]
    fitted, _ = dataset.tokenised(data, renderer, needed, format_name, maximum)
    if not fitted.items:
        raise InputError(f"--data {data.source}: no item fits into {maximum} tokens, so there is nothing to measure on")
    name = Path(data.source).name if kind_of(data) == "file" else data.source
    return HeldOut([item.example for item in fitted.items[:most]], renderer.pad_id, name)
