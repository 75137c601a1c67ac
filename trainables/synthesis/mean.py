"""The mean of several LoRAs' changes, layer by layer, from their factors: no member's product is ever formed.

With the factors of k members side by side, the mean of s_i B_i A_i is one product of rank k R or less,
[s_1 B_1 ... s_k B_k] / k times [A_1; ...; A_k], and its singular triplets come from a matrix of that size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from trainables.base import InputError
from trainables.export.checkpoint_pair import Checkpoint
from trainables.geometry.subspaces import directions, overlap
from trainables.linalg.adapter_factors import AdapterFactors, factors_of_product
from trainables.linalg.factors import Factors
from trainables.linalg.tensor_file import write_tensors
from trainables.targets import Linear, layer_types, read_layout

MEMBER = "member_"
FEWEST = 2
DIRECTIONS = 16
"""Leading directions of two members that are compared."""


@dataclass(frozen=True)
class LayerMean:
    """One layer: the singular values of the mean and of each member, and how alike the members are.

    products   <dW_i, dW_j> of every two members i < j
    overlaps   mean squared cosine between the leading left singular subspaces of every two
    chance     of two random subspaces of these dimensions
    """

    linear: Linear
    type: str
    values: Tensor
    members: Sequence[Tensor]
    products: Sequence[float]
    overlaps: Sequence[float]
    chance: float
    weight_norm: float
    """||W||_F of the base's weight."""

    @property
    def norm(self) -> float:
        """The Frobenius norm of the mean change."""
        return norm(self.values)

    @property
    def effective_rank(self) -> float:
        """That of the mean."""
        return effective_rank(self.values)

    @property
    def member_effective_rank(self) -> float:
        """The average of the members' effective ranks."""
        return fmean(map(effective_rank, self.members))


@dataclass(frozen=True)
class Synthesis:
    """The layers of a mean of `members` LoRAs of one rank, in the model's order."""

    layers: Sequence[LayerMean]
    members: int
    rank: int

    @property
    def delta_norm(self) -> float:
        """The Frobenius norm of the mean change over all layers."""
        return math.sqrt(sum(layer.norm**2 for layer in self.layers))

    @property
    def relative_delta(self) -> float:
        """||dW||_F / ||W||_F over all layers."""
        return self.delta_norm / math.sqrt(sum(layer.weight_norm**2 for layer in self.layers))

    @property
    def member_norms(self) -> list[float]:
        """The same of each member."""
        norms = ([norm(values) for values in layer.members] for layer in self.layers)
        return [math.sqrt(sum(value**2 for value in values)) for values in zip(*norms, strict=True)]

    @property
    def kept(self) -> float | None:
        """The mean's norm relative to the members' (root mean square): 1 if they agree, 1 / sqrt(k) if unrelated."""
        square = sum(value**2 for value in self.member_norms) / self.members
        return self.delta_norm / math.sqrt(square) if square else None

    @property
    def cosines(self) -> list[float]:
        """The cosine between the changes of every two members, taken over all layers."""
        pairs = combinations(self.member_norms, 2)
        sums = (sum(values) for values in zip(*(layer.products for layer in self.layers), strict=True))
        return [product / (one * other) for product, (one, other) in zip(sums, pairs, strict=True) if one * other]

    @property
    def types(self) -> list[str]:
        """The types of the layers, in the order in which the model has them."""
        return list(dict.fromkeys(layer.type for layer in self.layers))

    def of_type(self, kind: str) -> list[LayerMean]:
        """Return the layers of one type."""
        return [layer for layer in self.layers if layer.type == kind]


@dataclass(frozen=True)
class Opened:
    """The base, the members, and the layers that they adapt."""

    base: Checkpoint
    members: Sequence[AdapterFactors]
    targets: Sequence[Linear]
    stored: Mapping[str, Linear]
    """By the names under which the base stores their weights."""

    def layers(self) -> Iterator[LayerMean]:
        """Yield the mean of every adapted layer, in the model's order."""
        types = layer_types([linear.name for linear in self.targets])
        weights = {linear.name: stored for stored, linear in self.stored.items()}
        for linear in self.targets:
            with torch.inference_mode():
                found = self._layer(linear, types[linear.name], self.base.tensor(weights[linear.name]))
            yield found

    def _layer(self, linear: Linear, kind: str, weight: Tensor) -> LayerMean:
        own = [member[linear.name] for member in self.members]
        mean = mean_factors([member.halves(linear.name) for member in self.members])
        lefts = [directions(found.u, found.s)[:, :DIRECTIONS] for found in own]
        return LayerMean(
            linear,
            kind,
            mean.s,
            [found.s for found in own],
            products=[_product(one, other) for one, other in combinations(own, 2)],
            overlaps=[overlap(one, other) for one, other in combinations(lefts, 2) if one.numel() and other.numel()],
            chance=max(left.shape[1] for left in lefts) / linear.out_features,
            weight_norm=float(torch.linalg.vector_norm(weight, dtype=torch.float64)),
        )

    def write_sum(self, folder: Path) -> None:
        """Write the base's tensors to `model.safetensors` in fp32, with the mean added to those of the targets."""
        shapes = {name: info.shape for name, info in self.base.headers.items()}
        tensors = ((name, self._summed(name)) for name in shapes)
        write_tensors(folder / "model.safetensors", shapes, tensors, torch.float32)

    def _summed(self, name: str) -> Tensor:
        weight = self.base.tensor(name).float()
        if name not in self.stored:
            return weight
        linear = self.stored[name]
        down, up = joined([member.halves(linear.name) for member in self.members])
        return torch.addmm(weight, down.T, up.T) if linear.is_transposed else torch.addmm(weight, up, down)


def open_synthesis(inputs: Mapping[str, Path]) -> Opened:
    """Return the roles `base_model` and `member_1`, `member_2`, ...; InputError where they do not fit each other."""
    base, members = Checkpoint(inputs["base_model"], "base"), open_members(inputs)
    layout = read_layout(base.folder)
    strange = sorted(set(members[0]) - set(layout.linears))
    if strange:
        raise InputError(f"the members adapt {strange[0]}, which is no linear layer of the base model")
    targets = {linear.weight: linear for name, linear in layout.linears.items() if name in members[0]}
    stored = {
        name: targets[weight]
        for parameter in layout.parameters
        for weight in targets.keys() & set(parameter.names)
        for name in base.stored_names(parameter)
    }
    return Opened(base, members, list(targets.values()), stored)


def open_members(inputs: Mapping[str, Path]) -> list[AdapterFactors]:
    """Return the members' adapters; InputError if there is one only, or one has other layers than the first."""
    roles = sorted(
        (role for role in inputs if role.startswith(MEMBER)), key=lambda role: int(role.removeprefix(MEMBER))
    )
    if len(roles) < FEWEST:
        raise InputError(f"a mean of {len(roles)} LoRA is none; give the members' seed at least {FEWEST} values")
    members = [AdapterFactors(inputs[role] / "adapter") for role in roles]
    for role, member in zip(roles, members, strict=True):
        differ = sorted(set(members[0]) ^ set(member))
        if differ:
            raise InputError(f"{role} and {roles[0]} adapt different layers, first {differ[0]}: give them one setting")
    return members


def mean_factors(halves: Sequence[tuple[Tensor, Tensor, float]]) -> Factors:
    """Return the singular triplets of the mean of s B A over the members' A (R, in), B (out, R) and s."""
    down, up = joined(halves)
    return factors_of_product(down, up, 1.0)


def joined(halves: Sequence[tuple[Tensor, Tensor, float]]) -> tuple[Tensor, Tensor]:
    """Return A (k R, in) and B (out, k R) whose product B A is the mean of the members' s B A, in fp32."""
    down = torch.cat([a.float() for a, _, _ in halves])
    up = torch.cat([b.float() * (scaling / len(halves)) for _, b, scaling in halves], dim=1)
    return down, up


def _product(one: Factors, other: Factors) -> float:
    """Return <U S V^T, U' S' V'^T> = sum of (S U^T U' S') * (V^T V'), in fp64."""
    left = (one.u * one.s).double().T @ (other.u * other.s).double()
    return float((left * (one.vt.double() @ other.vt.double().T)).sum())


def norm(values: Tensor) -> float:
    """Return the Frobenius norm that these singular values make."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))


def effective_rank(values: Tensor) -> float:
    """Return exp of the entropy of the singular values' shares (Roy & Vetterli 2007); 0 of a zero matrix."""
    shares = values.double() / values.double().sum()
    if not bool(torch.isfinite(shares).all()):
        return 0.0
    return math.exp(float(-torch.special.xlogy(shares, shares).sum()))
