"""Text that a fine-tuning did not see, to tell what it made the model forget: a short story in plain English.

*In the Year 2889* (Jules and Michel Verne, 1889, public domain; Project Gutenberg's eBook 19362) lies in the package
reasoning-gym, which the datasets need anyway: nothing is fetched, and the text is that of one sha256 on every machine,
or the run is refused. Other candidates were worse: docstrings and licences change with every version of their package,
and items of other tasks are made of one sentence, so that their loss says what the model makes of a template. A base
model has most likely read the story in pretraining: only the difference between two models of one base means anything.

The loss is that of non-overlapping windows of a given number of tokens, the first token of each given, without a chat
template: the usual perplexity on raw text, whose value depends on the window's length, which is why that is named
beside it. Only the first `TOKENS` tokens are read, to the windows that fill up.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.base import InputError

if TYPE_CHECKING:
    from trainables.training.examples import Example

FILE = "in_the_year_2889.txt"
SHA256 = "e9048bcd282207d6f093bff92b3ad7c94689352205105c3716f0fdf5e245a25c"
START, END = "\nIN THE YEAR 2889.\n", "End of Project Gutenberg's"
TOKENS = 4096
"""Tokens that are read at most: a second or two of SmolLM2 on one core."""


def text() -> str:
    """Return the story without Project Gutenberg's preface and licence; InputError if it is not there as it was."""
    spec = importlib.util.find_spec("reasoning_gym")  # finds the folder without importing the package
    folders = (spec.submodule_search_locations if spec else None) or []
    path = next((path for folder in folders if (path := Path(folder) / "data" / FILE).is_file()), None)
    return verified(path)


def verified(path: Path | None) -> str:
    """Return the story in a file; InputError unless it is the very one that is pinned."""
    found = path.read_bytes() if path else b""
    if hashlib.sha256(found).hexdigest() != SHA256:
        raise InputError(
            f"forgetting is measured on the story {FILE} of reasoning-gym, and the installed package has "
            f"{'another text' if found else 'none'}; install reasoning-gym 0.1.25, or leave forgetting_window out"
        )
    return found.decode("utf-8").partition(START)[2].partition(END)[0].strip()


def windows(tokenizer: Any, length: int) -> list[Example]:
    """Return the story's first windows of `length` tokens each; InputError if it has not even one."""
    from trainables.training.examples import Example

    tokens: Sequence[int] = tokenizer(text(), add_special_tokens=False, verbose=False)["input_ids"]
    count = min(len(tokens), max(TOKENS, length)) // length
    if not count:
        raise InputError(f"forgetting_window={length} is more than the {len(tokens)} tokens of the text; use fewer")
    return [Example(list(tokens[start : start + length]), 0) for start in range(0, count * length, length)]


def check_unseen(source: str) -> None:
    """Raise InputError if the dataset's source is a task that makes its items of this very text."""
    from trainables.data.generated import tasks

    path = tasks().get(source)
    if path is not None and FILE in path.read_text(encoding="utf-8"):
        raise InputError(
            f"{source} makes its items of the text that forgetting is measured on; leave evaluate.forgetting_window out"
        )
