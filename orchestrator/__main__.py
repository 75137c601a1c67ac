"""`python -m orchestrator`: one line for a user's mistake, a traceback for ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from orchestrator.cli import parse
from trainables.base import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 some runs failed, 2 the user's mistake, else 128 + a signal."""
    try:
        options = parse(arguments)
        return int(options.execute(options))
    except InputError as error:
        sys.stderr.write(f"orchestrator: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has left (`... | head`): nothing more to say, and nothing to flush into.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
