"""Where an init finds the change that it starts from: an export of a teacher, or another student's adapter.

Either is a mapping from layer names to factors of dW in (out, in) orientation, read one layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainables.base import Context, InputError
from trainables.inits.parts.layers import Adapted, adapted_layers
from trainables.linalg.adapter_factors import AdapterFactors
from trainables.linalg.factors import Factors, load_factors


def exported(model: Any, context: Context, role: str) -> Iterator[tuple[Adapted, Factors]]:
    """Yield each adapted layer with the leading factors, as many as its rank, of the export that fills a role.

    Raises InputError if the export does not fit the student.
    """
    yield from _fitted(model, load_factors(context.inputs[role]), role)


def learnt(model: Any, context: Context, role: str) -> Iterator[tuple[Adapted, Factors]]:
    """Yield the same of the adapter that the student in a role has learnt."""
    yield from _fitted(model, AdapterFactors(context.inputs[role] / "adapter"), role)


def _fitted(model: Any, factors: Mapping[str, Factors], role: str) -> Iterator[tuple[Adapted, Factors]]:
    for part in adapted_layers(model):
        if part.name not in factors:
            raise InputError(f"{role} has no factors for {part.name}: give {role} and student the same targets")
        found = factors[part.name]
        if part.rank > found.rank:
            raise InputError(
                f"student rank {part.rank} is above the {found.rank} that {role} kept of {part.name}; raise {role}.rank"
            )
        yield part, found.truncated(part.rank)
