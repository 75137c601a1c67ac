"""What a Ray session of ours leaves alone, and what it hands on."""

from __future__ import annotations

import signal
import stat
import sys
from pathlib import Path

import pytest

from cluster.session import Signals, make_token_private, own_paths

TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in TOKEN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_new_token_can_be_read_by_its_owner_only(home: Path) -> None:
    make_token_private()
    token = home / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64


def test_a_token_that_is_there_is_left_as_it_is(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("mine")
    make_token_private()
    assert token.read_text() == "mine"


def test_no_token_is_written_where_the_user_has_chosen_another_way(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    make_token_private()
    assert not (home / ".ray").exists()


def test_signal_handlers_are_put_back() -> None:
    def ours(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGUSR1, ours)
    try:
        signals = Signals()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signals.restore()
        assert signal.getsignal(signal.SIGUSR1) is ours
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_workers_find_the_modules_of_this_process_but_not_its_installed_packages_twice(tmp_path: Path) -> None:
    sys.path.append(str(tmp_path))
    try:
        assert str(tmp_path) in own_paths()
    finally:
        sys.path.remove(str(tmp_path))
    assert not [path for path in own_paths() if path.endswith("site-packages")]
    assert all(Path(path).is_absolute() for path in own_paths())
