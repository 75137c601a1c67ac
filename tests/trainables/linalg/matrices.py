"""Matrices whose leading singular values are as hard, or as easy, as those of weight changes."""

from __future__ import annotations

import torch
from torch import Tensor


def with_spectrum(sigma: Tensor, rows: int, columns: int, seed: int = 0) -> Tensor:
    """Return a random matrix (rows, columns) in fp32 with these singular values (those left out are zero)."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(rows, len(sigma), generator=generator, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(columns, len(sigma), generator=generator, dtype=torch.float64))[0]
    return ((u * sigma.double()) @ v.T).float()


def spectrum(kind: str, size: int) -> Tensor:
    """Return `size` singular values: fast, steep, slow (with noise below), clusters, low (rank 20, exactly), flat."""
    index = torch.arange(1, size + 1, dtype=torch.float64)
    if kind == "fast":
        return torch.exp(-index / 15)
    if kind == "steep":
        return torch.cat([torch.linspace(2, 1, 12), 1e-3 * torch.exp(-index[12:] / 5)])
    if kind == "slow":
        return index**-0.7 + 0.02 * torch.linspace(1, 0.1, size, dtype=torch.float64)
    if kind == "clusters":
        return torch.floor((index - 1) / 13).neg().mul(0.25).exp()
    if kind == "low":
        return torch.linspace(2, 1, 20, dtype=torch.float64)
    assert kind == "flat"
    return torch.linspace(1, 0.5, size, dtype=torch.float64)


def exact_values(matrix: Tensor, rank: int) -> Tensor:
    """Return the leading singular values by LAPACK, in fp64."""
    return torch.linalg.svdvals(matrix.double())[:rank]
