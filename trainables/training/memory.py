"""Out of memory: which errors say so, and the word that a run leaves for its next start.

Where the passes of a step involve no other worker (one process, or plain data parallelism) the step is tried again
at once with half the micro-batch, and the results are the same to rounding. With ZeRO the others wait for the one that
ran out inside a collective, and its engine is left in the middle of a pass: it leaves word beside its checkpoints and
lets the error through. Whoever started the workers ends them all and, if `asks_for_restart` says so, starts fresh ones
with the same context from the newest checkpoint; they begin with the smaller micro-batch. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

WORD = "micro_batch.json"


@dataclass(frozen=True)
class MicroBatch:
    """Sequences in one pass of a worker, and how often that number has been halved in this run."""

    size: int
    halved: int = 0

    def half(self) -> MicroBatch:
        """Return the micro-batch to try after this one did not fit; ask only above 1."""
        return MicroBatch(self.size // 2, self.halved + 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is a device's or the machine's way of saying that memory is used up."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def leave_word(checkpoints: Path, smaller: MicroBatch) -> None:
    """Tell the next start of this run to begin with a smaller micro-batch."""
    beside = checkpoints / f".{WORD}.{id(smaller)}"
    beside.write_text(json.dumps({"size": smaller.size, "halved": smaller.halved}))
    beside.replace(checkpoints / WORD)


def find_word(checkpoints: Path) -> MicroBatch | None:
    """Return the micro-batch that an earlier start of this run asked for; None if it fitted."""
    path = checkpoints / WORD
    return MicroBatch(**json.loads(path.read_text())) if path.exists() else None


def asks_for_restart(checkpoints: Path, before: MicroBatch | None) -> bool:
    """Say whether a start that ended out of memory left word of a smaller micro-batch than it found `before`."""
    word = find_word(checkpoints)
    return word is not None and (before is None or word.size < before.size)
