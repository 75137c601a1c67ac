"""What went wrong while MLflow was being written to: is it worth trying again, and how to say it in one line."""

from __future__ import annotations

from typing import Literal, TypeAlias

from orchestrator.tracking.client import own_database, shown

Trouble: TypeAlias = Literal["lost", "changed", "refused"]
"""lost: the server is away, or too slow; changed: what we wrote to is gone, or what we make is there by now: look
again; refused: it will not do it."""

BUSY = (408, 429)
"""HTTP's "too slow" and "too many requests"."""
GONE = ("must be in the 'active' state", "must be in 'active' state", "does not exist", "not found")
"""What MLflow says of a run that somebody has deleted."""
ALREADY_THERE = "RESOURCE_ALREADY_EXISTS"
"""MLflow's code for an experiment that another store has made since we looked."""


def trouble(error: Exception, uri: str) -> Trouble:
    """Return what kind of trouble an exception of MLflow's client is."""
    status = _status(error)
    if status == 404 or (status == 400 and any(words in str(error) for words in GONE)):
        return "changed"
    if getattr(error, "error_code", None) == ALREADY_THERE:
        return "changed"
    is_away = isinstance(error, OSError) if status is None else status >= 500 or status in BUSY
    return "lost" if is_away and own_database(uri) is None else "refused"


def in_words(error: Exception) -> str:
    """Return an exception in one line, without credentials."""
    lines = shown(str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _status(error: Exception) -> int | None:
    """Return the HTTP status that MLflow gives its exceptions, also where no HTTP was spoken; None for others."""
    ask = getattr(error, "get_http_status_code", None)
    return int(ask()) if ask is not None else None
