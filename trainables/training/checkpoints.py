"""Checkpoints of a training run: written under a temporary name, renamed into place, never changed.

A checkpoint is whole by itself: it carries the best weights so far as well (a link, so they cost nothing),
because the attempt that reads it may run on another machine after its own attempt is gone. Of a run's workers each
writes its own part; the first one prepares the folder, and renames it when all have written.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from trainables.durable import flush, link
from trainables.training.engine import Engine

POSITION, BEST = "position.json", "best.safetensors"


@dataclass
class Position:
    """How far a run is and what it has seen: with the engine's state, all that a resume needs.

    `tokens` counts completion tokens; losses are None before they were first measured. `micro_batch` is what was left
    of the micro-batch after it has been `halved` that often for want of memory; None if it never was.
    """

    step: int = 0
    tokens: int = 0
    loss: float | None = None
    initial_eval_loss: float | None = None
    eval_loss: float | None = None
    best_eval_loss: float = math.inf
    best_step: int = 0
    micro_batch: int | None = None
    halved: int = 0

    def note_evaluation(self, loss: float) -> bool:
        """Keep a held-out loss measured at this step; say whether it is the best so far."""
        if self.initial_eval_loss is None:
            self.initial_eval_loss = loss
        self.eval_loss = loss
        is_best = loss < self.best_eval_loss
        if is_best:
            self.best_eval_loss, self.best_step = loss, self.step
        return is_best


class Checkpoints:
    """The checkpoints of one attempt, below `folder`: `step-N`, the newest only, and the best weights so far."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        """Keep the engine's checkpoints in an existing folder."""
        self.folder, self.engine, self.workers = folder, engine, engine.workers
        self.newest: Path | None = None

    @property
    def best(self) -> Path:
        """The file with the best weights so far, if any were kept."""
        return self.folder / BEST

    def keep_best(self) -> None:
        """Keep the engine's weights as the best so far."""
        beside = self.folder / f".{BEST}"
        self.engine.save_weights(beside)
        if self.workers.is_first:
            beside.replace(self.best)
        self.workers.meet()

    def save(self, position: Position) -> Path:
        """Write the checkpoint of this position, then delete the one before it; return its folder."""
        path = self.folder / f"step-{position.step}"
        if path == self.newest:
            return path
        beside = self.folder / f".{path.name}"
        if self.workers.is_first:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
        self.workers.meet()
        self.engine.save(beside)
        self.workers.meet()
        if self.workers.is_first:
            self._complete(beside, path, position)
        self.workers.meet()
        self.newest = path
        return path

    def _complete(self, beside: Path, path: Path, position: Position) -> None:
        """Add what all workers share, give the checkpoint its name, and delete the one before it."""
        (beside / POSITION).write_text(json.dumps(dataclasses.asdict(position)))
        if self.best.exists():
            link(self.best, beside / BEST)
        for written in [*beside.iterdir(), beside]:
            flush(written)
        beside.rename(path)
        if self.newest is not None:
            shutil.rmtree(self.newest)

    def resume(self, checkpoint: Path) -> Position:
        """Put the engine where the checkpoint was taken, of whichever attempt, and return its position."""
        self.engine.load(checkpoint)
        if self.workers.is_first and (checkpoint / BEST).exists():
            beside = self.folder / f".{BEST}"
            beside.unlink(missing_ok=True)
            link(checkpoint / BEST, beside)
            beside.replace(self.best)
        if checkpoint.parent == self.folder:  # the workers of this very attempt were started again
            self.newest = checkpoint
        position = Position(**json.loads((checkpoint / POSITION).read_text()))
        self.workers.meet()
        return position
