"""A process' own memory: its anonymous pages (RssAnon), without the files that it maps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def rss_anon() -> int:
    """Return the bytes of this process' anonymous pages in memory."""
    with Path("/proc/self/status").open() as stream:
        line = next(line for line in stream if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@contextmanager
def sampled(every_s: float = 0.002) -> Iterator[list[int]]:
    """Keep the largest RssAnon seen meanwhile as the list's only element."""
    peak, ended = [rss_anon()], threading.Event()

    def sample() -> None:
        while not ended.wait(every_s):
            peak[0] = max(peak[0], rss_anon())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
