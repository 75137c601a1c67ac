"""Joining a running Ray cluster: whatever is in the way is said in one line, within seconds, before Ray is asked.

Ray itself takes a minute to give up on an address or a token, leaves stack traces, and joins a cluster that asks
nobody for a token; that one is refused here, because everybody on its network can run code on it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from cluster import tokens
from cluster.knock import ELSEWHERE, HERE, REFUSED, SILENT, Knock
from orchestrator.errors import UserError

CONNECT_S = 5.0


def find_cluster(address: str) -> str:
    """Return the host:port of the cluster at `address` (host:port, or auto: the one of this machine).

    Raises UserError where there is none, where this machine is no node of it, where it does not take our token, and
    where it takes anybody's, unless RAY_AUTH_MODE=disabled says that this is meant.
    """
    has_token = tokens.prepare(may_make=False)
    written, address = address, resolve(address)
    reach(address, written)
    with_ours, with_none = Knock(address), Knock(address, {tokens.MODE: "disabled"})
    answer, answer_to_anybody = with_ours.answer(), with_none.answer()
    if SILENT in (answer, answer_to_anybody):
        raise UserError(f"no Ray cluster of our version answers at {address}; its head prints the address at its start")
    if answer == REFUSED:
        raise UserError(_refusal(address, has_token=has_token))
    if has_token and answer_to_anybody != REFUSED:
        raise UserError(
            f"the Ray cluster at {address} asks for no token, so whoever reaches it can run code on it: start it with "
            f"{tokens.MODE}=token on every node, or set {tokens.MODE}=disabled here if that is meant"
        )
    if answer == ELSEWHERE:
        raise UserError(
            f"this machine is no node of the Ray cluster at {address}: run the command on one of its nodes, "
            f"or join first with `ray start --address={address}`"
        )
    assert answer == HERE
    return address


def resolve(address: str) -> str:
    """Return host:port for an address as the user writes it; raises UserError for what is none."""
    from ray._private import services

    if address == "auto" and not os.environ.get("RAY_ADDRESS"):
        found = sorted(services.find_gcs_addresses())
        if len(found) > 1:
            raise UserError(f"--address auto: several Ray clusters run here; name one of {', '.join(found)}")
    if "://" in address:
        raise UserError(f"--address {address}: give host:port or auto; through Ray's client no sweep can run")
    try:
        return str(services.canonicalize_bootstrap_address(address))
    except ConnectionError:
        raise UserError("--address auto: no Ray cluster runs on this machine; give its host:port") from None
    except (ValueError, OSError):
        raise UserError(f"--address {address}: not a host:port that this machine knows; give that, or auto") from None


def reach(address: str, written: str) -> None:
    """Raise UserError where nothing listens at host:port, which the user has `written` in some way."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--address {written}: nothing answers at {address} ({reason}); is its head up?") from None


@contextlib.contextmanager
def joining(address: str | None) -> Iterator[None]:
    """Turn what Ray raises while we join a cluster (other versions, a head that has just gone) into one line."""
    try:
        yield
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        raise UserError(f"cannot join the Ray cluster at {address}: {' '.join(str(error).split())}") from None


def _refusal(address: str, *, has_token: bool) -> str:
    if not has_token:
        return f"the Ray cluster at {address} asks for a token: unset {tokens.MODE}, and use the token of its nodes"
    where = f"in {tokens.TOKEN}" if os.environ.get(tokens.TOKEN) else f"in {tokens.token_file()}"
    return f"the Ray cluster at {address} does not take the token {where}: use the token of its nodes"
