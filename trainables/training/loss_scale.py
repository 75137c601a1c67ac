"""The loss scale of fp16 under ZeRO: torch's GradScaler cannot see gradients that lie in pieces on several workers.

Its constants are GradScaler's: halved when a gradient overflowed, doubled after 2000 updates without.
"""

from __future__ import annotations

from dataclasses import dataclass

GROWTH_INTERVAL = 2000


@dataclass
class LossScale:
    """The factor of the loss, and the number of good updates since it last changed."""

    value: float = 2.0**16
    good: int = 0

    def update(self, *, overflowed: bool) -> None:
        """Adapt to whether the gradient of the last update was finite."""
        if overflowed:
            self.value, self.good = self.value / 2, 0
        elif self.good + 1 == GROWTH_INTERVAL:
            self.value, self.good = self.value * 2, 0
        else:
            self.good += 1
