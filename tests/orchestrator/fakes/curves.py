"""Loss curves with the shape of the real ones: a start, an end, an exponential between, and seeded noise."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator

from trainables.base import Progress


def generator(*about: object) -> random.Random:
    """Return a generator that depends on nothing but its arguments."""
    return random.Random(int.from_bytes(hashlib.sha256(repr(about).encode()).digest()[:8], "big"))


def curve(start: float, end: float, steps: int, eval_every: int, noise: random.Random) -> Iterator[Progress]:
    """Yield a run's progress: held-out loss at step 0 and at every evaluation, training loss at every step."""
    best = math.inf
    for step in range(steps + 1):
        loss = end + (start - end) * (math.exp(-4 * step / steps) - math.exp(-4)) / (1 - math.exp(-4))
        metrics = {} if step == 0 else {"loss": loss + noise.gauss(0, 0.05), "learning_rate": 1e-3 * (1 - step / steps)}
        if step % eval_every == 0 or step == steps:
            best = min(best, loss)
            metrics |= {"eval_loss": loss, "eval_perplexity": math.exp(loss), "best_eval_loss": best}
        yield Progress(step, steps, metrics)


def summary(start: float, end: float, steps: int, trainable: int, total: int) -> dict[str, float]:
    """Return the final metrics of a teacher or a student."""
    return {
        "initial_eval_loss": start,
        "final_eval_loss": end,
        "best_eval_loss": min(start, end),
        "best_step": steps if end < start else 0,
        "final_loss": end,
        "steps": steps,
        "trainable_parameters": trainable,
        "total_parameters": total,
        "trainable_share": trainable / total,
    }
