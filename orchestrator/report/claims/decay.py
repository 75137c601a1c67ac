"""How do the singular values of a change decay: exponentially, or as a power of their index?

Both laws are lines with two parameters through log sigma: against the index, and against its logarithm. With equal
numbers of parameters the smaller AIC is the smaller residual; adjusted R^2 says whether either fits at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator.statistics.estimates import Floats

FEWEST = 5
"""Singular values below which a line through them says nothing."""
NOISE = 1e-6
"""Relative to the largest: singular values below are rounding, and left out."""


@dataclass(frozen=True)
class Fit:
    """One layer: difference in AIC, power law minus exponential (above 0: exponential fits better), adjusted R^2."""

    layer: str
    type: str
    aic_gain: float
    r2_exponential: float
    r2_power: float

    @property
    def is_exponential(self) -> bool:
        """Whether the exponential fits better."""
        return self.aic_gain > 0


def fits(path: Path) -> list[Fit]:
    """Return the fit of every layer of an export's spectrum.csv that has five singular values or more."""
    table = pd.read_csv(path)
    found = []
    for (layer, kind), rows in table.groupby(["layer", "type"], sort=False):
        fit = fitted(str(layer), str(kind), rows["sigma"].dropna().to_numpy())
        if fit is not None:
            found.append(fit)
    return found


def fitted(layer: str, kind: str, sigma: Floats) -> Fit | None:
    """Return the fit of one layer's singular values (largest first); None where there are too few."""
    kept = sigma[sigma > NOISE * sigma.max(initial=0.0)]
    if len(kept) < FEWEST:
        return None
    y, index = np.log(kept), np.arange(1, len(kept) + 1, dtype=float)
    exponential, power = _residual(index, y), _residual(np.log(index), y)
    total = float(((y - y.mean()) ** 2).sum())
    gain = len(y) * (np.log(max(power, 1e-300)) - np.log(max(exponential, 1e-300)))
    return Fit(layer, kind, float(gain), _adjusted(exponential, total, len(y)), _adjusted(power, total, len(y)))


def by_type(found: Sequence[Fit]) -> dict[str, list[Fit]]:
    """Return the fits by layer type."""
    return {kind: [fit for fit in found if fit.type == kind] for kind in dict.fromkeys(fit.type for fit in found)}


def _residual(x: Floats, y: Floats) -> float:
    slope, level = np.polyfit(x, y, 1)
    return float(((y - level - slope * x) ** 2).sum())


def _adjusted(residual: float, total: float, n: int) -> float:
    return 1 - (residual / (n - 2)) / (total / (n - 1)) if total > 0 else 0.0
