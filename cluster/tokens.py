"""The token that every part of a Ray cluster shows to every other: found, made where it may be, kept from other users.

Whoever reaches a cluster without one can run code on it, so it is on unless RAY_AUTH_MODE=disabled. Ray reads it from
RAY_AUTH_TOKEN, from the file RAY_AUTH_TOKEN_PATH, or from ~/.ray/auth_token, in this order; it ends the process, with
a stack trace, at a file that it cannot read, and writes new ones for everybody to see. Hence this look beforehand.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from orchestrator.errors import UserError

MODE, TOKEN, TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
WAY_OUT = "make one with `ray get-auth-token --generate` and give all nodes the same (~/.ray/auth_token, mode 0600)"


def is_wanted() -> bool:
    """Say whether authentication is on; raises UserError for a mode that Ray does not know."""
    mode = (os.environ.get(MODE) or "token").lower()
    if mode not in ("token", "disabled"):
        raise UserError(f"{MODE}={mode!r}: Ray knows token (the default here) and disabled")
    return mode == "token"


def prepare(*, may_make: bool) -> bool:
    """Turn authentication on, unless the user has turned it off; return whether it is on.

    `may_make` writes a token where there is none, for a session of our own. Raises UserError where no token is found,
    or where others can read it and we cannot change that.
    """
    if not is_wanted():
        return False
    os.environ[MODE] = "token"
    if os.environ.get(TOKEN):
        return True
    path = token_file()
    if may_make and not os.environ.get(TOKEN_FILE):
        make(path)
    if not _content(path):
        raise UserError(f"no token for Ray's authentication in {path}: {WAY_OUT}")
    make_private(path)
    return True


def token_file() -> Path:
    """Return the file that Ray reads the token from, where RAY_AUTH_TOKEN does not hold it."""
    named = os.environ.get(TOKEN_FILE)
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def make(path: Path) -> None:
    """Write a new token, mode 0600, unless there is a file already."""
    with contextlib.suppress(FileExistsError):
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise
        except OSError as error:
            raise UserError(f"cannot write a token to {path} ({error.strerror}); name one with {TOKEN_FILE}") from None
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))


def make_private(path: Path) -> None:
    """Let nobody else read a token of ours; raises UserError for one that others can read and that is not ours."""
    about = path.stat()
    if not about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return
    try:
        if about.st_uid == os.geteuid():
            path.chmod(0o600)
            return
    except OSError:
        pass
    if about.st_mode & stat.S_IRWXO:
        raise UserError(
            f"everybody here can read Ray's token in {path}, and it is not yours: chmod 600 it, or use another"
        )


def _content(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read Ray's token in {path} ({error}); name another with {TOKEN_FILE}") from None
