"""Factorises what training did to a model: the leading singular triplets of dW, for every linear layer, once.

One export serves every rank up to its own, because truncated SVDs nest. Both checkpoints are read tensor by tensor,
and a pair that does not fit is refused before the first factorisation. Each finished layer is kept among the attempt's
checkpoints: whatever cuts an export off, the next attempt computes only what no earlier one has finished.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import Field

from trainables.base import Config, Context, InputError, Metrics, Progress, Trainable
from trainables.checkpoint_files import difference, read_headers
from trainables.export.misfit import unusable
from trainables.export.ranks import ByRank
from trainables.targets import (
    ALL_LINEAR,
    Linear,
    check_targets,
    choose,
    linear_shapes,
)

if TYPE_CHECKING:
    from trainables.export.spectrum import Spectrum

SMALLEST_EXPORT = 64
"""Studies export at least this rank whatever the model (contract C1), so it is no mistake on a smaller one."""


class SvdExportConfig(Config):
    """Which layers, and how many singular triplets of each."""

    rank: int = Field(64, ge=1, description="singular triplets per layer; a smaller layer gives all it has")
    target_modules: str | list[str] = Field(ALL_LINEAR, description="as PEFT reads it: all-linear, regex or names")
    layers: list[list[str]] = Field(
        default_factory=list,
        description="of these, the layers with one of each list's depths, types, names or globs; none: all",
    )

    def identity(self) -> dict[str, Any]:
        """Return what decides the result: a choice of layers counts where one is made."""
        return {name: value for name, value in super().identity().items() if name != "layers" or value}


def check(config: SvdExportConfig, inputs: Mapping[str, Path]) -> None:
    """Raise InputError for weights no one can read, targets that match nothing, a rank or teacher that does not fit."""
    if "base_model" not in inputs:
        return
    headers = {role: read_headers(inputs[role]) for role in ROLES if role in inputs}
    for role, found in headers.items():
        useless = unusable(found, ROLES[role], inputs[role])
        if useless:
            raise InputError(useless)
    base = headers["base_model"]
    shapes = linear_shapes(base)
    check_targets(config.target_modules, shapes)
    choose([Linear(name, shape[0], shape[1]) for name, shape in shapes.items()], config.layers)
    largest = max(min(shape) for shape in shapes.values())
    if config.rank > max(SMALLEST_EXPORT, 1 << (largest - 1).bit_length()):
        raise InputError(
            f"svd_export rank {config.rank}, made for the largest student.rank, is above what any layer of the base "
            f"model has; use a student.rank of at most {largest}"
        )
    if "teacher" in headers:
        differs = difference(headers["teacher"], base)
        if differs:
            raise InputError(f"the teacher is no checkpoint of the base model: {differs}")


def run(config: SvdExportConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Factorise layer by layer, then write the factors and the report on what they hold and what they cannot."""
    from trainables.export.attempt import factorised, opened
    from trainables.export.spectrum import Spectrum
    from trainables.export.spectrum_report import write_report
    from trainables.linalg.factors import save_factors

    check(config, context.inputs)
    pair = opened(context, ROLES, config.target_modules, config.layers)
    found = yield from factorised(context, pair, ByRank(rank=config.rank))
    shapes = {item.name: (item.out_features, item.in_features, item.rank(config.rank)) for item in found.targets}
    factors = ((name, found.files[name].truncated(rank)) for name, (_, _, rank) in shapes.items())
    save_factors(context.output, shapes, factors)
    spectrum = Spectrum(found.layers, found.excluded, config.rank)
    context.log(write_report(context.output, spectrum, notes=found.notes))
    return spectrum.metrics() | _certainty(spectrum)


def _certainty(spectrum: Spectrum) -> dict[str, float]:
    """Return how many layers took each route, and the chance that a bound is wrong."""
    from trainables.linalg.certificate import Route

    routes = {f"layers_{route.replace('-', '_')}": spectrum.routes.get(route, 0) for route in get_args(Route)}
    return {**routes, "failure_probability": spectrum.failure_probability}


ROLES = {"base_model": "base", "teacher": "teacher"}
"""The inputs, and what messages call them."""

TRAINABLE = Trainable(
    name="svd_export",
    version=2,
    config=SvdExportConfig,
    run=run,
    roles=tuple(ROLES),
    check=check,
    cost_s=lambda config: 20.0,
)
