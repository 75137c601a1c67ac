"""What training costs in floating-point operations, counted from shapes; and steps that cost as much as others. Pure.

Per token a matrix of m elements costs 2 m forward, 2 m for the gradient of its input, and 2 m for its own gradient if
it is trained (Kaplan et al. 2020, arXiv 2001.08361, 2.1: 6 N per token for training all of N). So with N elements in
the blocks' linear layers, the head H = vocabulary x hidden, and A elements in an adapter,

    all weights trained      6 (N + H)
    linear layers trained    6 N + 4 H
    LoRA                     4 (N + H) + 6 A

A frozen weight still passes its input's gradient on, so a LoRA saves a third and not two. Left out are what all of them
share and what is small at lengths of some hundred tokens: attention scores (they grow with the length), norms, the
optimiser; embeddings are looked up. The head counts for every token; it is computed for completion tokens only, but in
teacher and student alike.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from trainables.base_models.shape import Shape

Trains: TypeAlias = Literal["all", "linears"] | int
"""What is trained: all weights, the blocks' linear layers, or a LoRA of this rank on all of these layers."""


def flops_per_token(shape: Shape, trains: Trains) -> float:
    """Return the floating-point operations of one training step per token of its batch."""
    linears, head = shape.layers * shape.block_weights, shape.embeddings
    if trains == "all":
        return 6.0 * (linears + head)
    if trains == "linears":
        return 6.0 * linears + 4.0 * head
    return 4.0 * (linears + head) + 6.0 * shape.adapter(trains)


def compute_matched_steps(
    steps: int,
    rank: int,
    shape: Shape,
    *,
    teacher_steps: int,
    teacher_trains: Literal["all", "linears"] = "all",
    batch_ratio: float = 1.0,
) -> int:
    """Return the steps of a LoRA of `rank` that cost what `steps` of it and the teacher's steps cost together.

    steps + ceil(teacher_steps x batch_ratio x flops_per_token(teacher) / flops_per_token(LoRA)): never less compute
    than the arm it is compared with had, the factorisation left out. `batch_ratio` is the teacher's batch size by the
    student's; both see sequences of the same lengths.
    """
    ratio = batch_ratio * flops_per_token(shape, teacher_trains) / flops_per_token(shape, rank)
    return steps + math.ceil(round(teacher_steps * ratio, 6))
