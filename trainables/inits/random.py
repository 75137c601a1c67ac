"""PEFT's default start: A from a Kaiming uniform distribution, B zero, so that nothing changes at step 0."""

from __future__ import annotations

from typing import Any

from trainables.base import Context
from trainables.inits import Init


def start(model: Any, config: Any, context: Context) -> None:
    """Leave the adapter as PEFT made it, under the run's seed."""


INIT = Init("random", "random", "Hu et al., arXiv 2106.09685; PEFT's init_lora_weights=True", (), start)
