"""Intruder dimensions: singular vectors of a tuned weight that the base's weight has nothing like.

Shuttleworth et al. 2024, LoRA vs full fine-tuning: an illusion of equivalence (arXiv 2410.21228): of the ten leading
left singular vectors of the tuned matrix, those whose largest |cosine| with any left singular vector of the base's is
below one half.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.geometry.subspaces import leading_left

LOOKED_AT = 10
UNLIKE = 0.5
KNOWN = 32
"""Singular vectors of the base that are computed first: a tuned weight's leading ones are mostly among them."""


def base_directions(weight: Tensor) -> Tensor:
    """Return the leading left singular vectors (out, k) of the base's weight that nearly every decision needs."""
    return leading_left(weight, min(KNOWN, *weight.shape))


def count_intruders(tuned: Tensor, base: Tensor, known: Tensor) -> int:
    """Return how many of the tuned weight's ten leading left singular vectors are intruders; all are (out, in).

    `known` are the base's `base_directions`. They decide alone where one of them is close, or where so little of the
    vector lies outside of them that no other can be (Bessel's inequality); else all of the base's are computed.
    """
    vectors = leading_left(tuned, min(LOOKED_AT, *tuned.shape))
    unlike = vectors[:, _largest_cosines(vectors, known) < UNLIKE]
    outside = 1.0 - (known.T @ unlike).square().sum(0)
    if bool((outside < UNLIKE**2).all()):
        return unlike.shape[1]
    every = leading_left(base, min(base.shape))
    return int((_largest_cosines(unlike, every) < UNLIKE).sum())


def _largest_cosines(vectors: Tensor, others: Tensor) -> Tensor:
    largest: Tensor = torch.linalg.vector_norm(others.T @ vectors, torch.inf, dim=0)
    return largest
