"""What one run has measured so far, in little memory: the course of its loss, the best, its speed."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

CELLS = 240
"""Values that a curve keeps at most: twice what the widest trend shows, many times over."""

SAMPLE_S = 0.5
SAMPLES = 60
"""Speed is measured over the last 60 samples, at least half a second apart: half a minute, or more at slow steps."""


@dataclass
class Curve:
    """A series of any length in at most `CELLS` means of equally many neighbours."""

    cells: list[float] = field(default_factory=list)
    share: int = 1
    pending: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Take the next value; one that is not finite is left out."""
        if not math.isfinite(value):
            return
        self.pending.append(value)
        if len(self.pending) == self.share:
            self.cells.append(sum(self.pending) / self.share)
            self.pending = []
        if len(self.cells) == CELLS:
            self.cells = [(one + two) / 2 for one, two in zip(self.cells[::2], self.cells[1::2], strict=True)]
            self.share *= 2

    def thinned(self, cells: int) -> tuple[float, ...]:
        """Return means over at most `cells` equal parts, in order."""
        values = self.cells or self.pending
        parts = min(cells, len(values))
        edges = [len(values) * part // parts for part in range(parts + 1)] if parts else []
        return tuple(sum(values[begin:end]) / (end - begin) for begin, end in itertools.pairwise(edges))


@dataclass
class Track:
    """One attempt: where it is, and what it has measured. `clock_s` is time on any clock that its steps share."""

    step: int = 0
    total: int = 0
    loss: float | None = None
    losses: Curve = field(default_factory=Curve)
    held_out: float | None = None
    best: float | None = None
    tokens: float | None = None
    heard_at: float = 0.0
    samples: deque[tuple[float, int, float | None]] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def measure(self, metrics: Mapping[str, float]) -> None:
        """Take what a step has measured."""
        if "loss" in metrics:
            self.loss = metrics["loss"]
            self.losses.add(self.loss)
        if "eval_loss" in metrics:
            self.held_out = metrics["eval_loss"]
            known = [value for value in (self.best, self.held_out) if value is not None and math.isfinite(value)]
            self.best = metrics.get("best_eval_loss", min(known, default=None))
        self.tokens = metrics.get("tokens", self.tokens)

    @property
    def measures(self) -> set[str]:
        """What this attempt measures, of loss, held-out loss and tokens."""
        found = {"loss": self.loss, "held-out": self.held_out, "tokens": self.tokens}
        return {name for name, value in found.items() if value is not None}

    def reach(self, step: int, total: int, *, clock_s: float) -> None:
        """Note that the attempt was at `step` when the clock stood at `clock_s`."""
        self.step, self.total = step, total
        if not self.samples or clock_s - self.samples[-1][0] >= SAMPLE_S:
            self.samples.append((clock_s, step, self.tokens))

    def steps_per_s(self) -> float | None:
        """Return the present speed; None while there is too little to tell."""
        if not self.samples or self.samples[-1][1] <= self.samples[0][1]:
            return None
        (begin_s, first, _), (end_s, last, _) = self.samples[0], self.samples[-1]
        return (last - first) / (end_s - begin_s)

    def tokens_per_s(self) -> float | None:
        """Return the completion tokens trained on per second; None where the run counts none."""
        counted = [(clock_s, tokens) for clock_s, _, tokens in self.samples if tokens is not None]
        if not counted or counted[-1][1] <= counted[0][1]:
            return None
        return (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])

    def left_s(self) -> float | None:
        """Return the seconds to the last step at the present speed, from when the run was last heard of."""
        speed = self.steps_per_s()
        return (self.total - self.step) / speed if speed else None
