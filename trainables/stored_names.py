"""Where a checkpoint's names are not its model's: transformers renames some tensors, and converts others, as it loads.

Mixtral's checkpoint says `block_sparse_moe` where the model says `mlp`, and holds one matrix per expert where the
model holds all experts in one tensor. A renamed tensor can be read as it is stored. A converted one cannot be
compared with the model's, so it is known by its stored name and shape, and no adapter is made for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoredNames:
    """By stored name: the model's name of a renamed tensor, and the model's tensors that a converted one goes into."""

    renamed: Mapping[str, str]
    converted: Mapping[str, frozenset[str]]

    def of(self, name: str) -> list[str]:
        """Return the other names under which the model's tensor `name` is stored."""
        return [stored for stored, own in self.renamed.items() if own == name]


def stored_names(model: Any, stored: Iterable[str]) -> StoredNames:
    """Return what transformers would make of a checkpoint's names when it loads them into `model` (on any device)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    known = model.state_dict()
    renamed: dict[str, str] = {}
    converted: dict[str, frozenset[str]] = {}
    for name in stored:
        new, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
        converter = next((item for item in converters if pattern in item.source_patterns), None)
        if converter is not None:  # the name that comes back is that of the first of its targets
            first, *others = converter.target_patterns
            converted[name] = frozenset({new, *(new.replace(first, other) for other in others)}) & known.keys()
        elif new in known and new != name:
            renamed[name] = new
    return StoredNames(renamed, {name: targets for name, targets in converted.items() if targets})
