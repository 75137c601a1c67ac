"""Hugging Face libraries without their noise: no progress bars, no advice meant for other programs."""

from __future__ import annotations

import functools
import logging
import os


@functools.cache
def quieten() -> None:
    """Silence what transformers, huggingface_hub, datasets and deepspeed say by themselves; errors still raise."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # deepspeed is imported by transformers' save_pretrained, and announces on stdout that there is no GPU.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno > logging.WARNING)
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    hub_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
