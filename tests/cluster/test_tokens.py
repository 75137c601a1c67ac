"""The token is found, made and kept from others before Ray looks for it: Ray would end the process."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cluster import tokens
from orchestrator.errors import UserError

VARIABLES = (tokens.MODE, tokens.TOKEN, tokens.TOKEN_FILE)


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default token file of a user who has none yet."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what `prepare` sets is put back
        monkeypatch.delenv(name)
    return tmp_path / ".ray" / "auth_token"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_can_be_read_by_its_owner_only(token: Path) -> None:
    assert tokens.prepare(may_make=True)
    assert os.environ[tokens.MODE] == "token"
    assert mode(token) == 0o600
    assert mode(token.parent) == 0o700
    assert len(token.read_text()) == 64


@pytest.mark.parametrize("may_make", [True, False])
def test_a_token_that_is_there_is_kept_and_taken_from_other_eyes(token: Path, may_make: bool) -> None:
    token.parent.mkdir()
    token.write_text("mine")
    token.chmod(0o644)
    assert tokens.prepare(may_make=may_make)
    assert token.read_text() == "mine"
    assert mode(token) == 0o600


def test_no_token_is_needed_where_the_user_wants_none(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tokens.MODE, "disabled")
    assert not tokens.prepare(may_make=True)
    assert os.environ[tokens.MODE] == "disabled"
    assert not token.parent.exists()


def test_a_token_in_the_environment_needs_no_file(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tokens.TOKEN, "mine")
    assert tokens.prepare(may_make=False)
    assert not token.parent.exists()


@pytest.mark.parametrize("content", [None, " \n"])
def test_joining_without_a_token_says_how_to_get_one(token: Path, content: str | None) -> None:
    if content is not None:
        token.parent.mkdir()
        token.write_text(content)
    with pytest.raises(UserError, match="ray get-auth-token --generate") as caught:
        tokens.prepare(may_make=False)
    assert str(token) in str(caught.value)


def test_a_token_file_that_is_named_and_missing_is_not_made(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tokens.TOKEN_FILE, str(token.parent / "mine"))
    with pytest.raises(UserError, match=r"no token.*mine"):
        tokens.prepare(may_make=True)
    assert not token.parent.exists()


def test_a_token_that_is_no_text_is_named(token: Path) -> None:
    token.parent.mkdir()
    token.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="auth_token"):
        tokens.prepare(may_make=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(("bits", "is_refused"), [(0o644, True), (0o640, False)])
def test_a_token_of_somebody_else_that_all_can_read_is_refused(token: Path, bits: int, is_refused: bool) -> None:
    token.parent.mkdir()
    token.write_text("theirs")
    os.chown(token, 12345, -1)
    token.chmod(bits)
    if is_refused:
        with pytest.raises(UserError, match="chmod 600"):
            tokens.prepare(may_make=False)
    else:
        assert tokens.prepare(may_make=False)
    assert mode(token) == bits


def test_an_unknown_mode_is_refused(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tokens.MODE, "tokn")
    with pytest.raises(UserError, match=r"RAY_AUTH_MODE='tokn'.*disabled"):
        tokens.prepare(may_make=True)


def test_where_no_token_can_be_written_the_file_is_named(token: Path) -> None:
    token.parent.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"auth_token.*RAY_AUTH_TOKEN_PATH"):
        tokens.prepare(may_make=True)
