"""Layers with singular values made up for a test, without any matrix behind them."""

from __future__ import annotations

import numpy as np

from trainables.export.spectrum import LayerSpectrum
from trainables.linalg.certificate import Certificate
from trainables.targets import Linear


def layer(sigma, *, known=None, name="a", shape=None, slack=0.0):
    """Return a layer whose full spectrum is `sigma`, of which `known` values are known, to a relative `slack`."""
    full = np.sort(np.asarray(sigma, dtype=np.float64))[::-1]
    part = full[: len(full) if known is None else known]
    linear = Linear(name, *(shape or (len(full), len(full))))
    certificate = Certificate("exact", part * (1 - slack), part * (1 + slack), 0, 0.0)
    norm = float(np.sqrt(np.square(full).sum()))
    return LayerSpectrum(linear, "a", 0, part, norm, 1.0, 0.0, certificate)
