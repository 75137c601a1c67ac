"""What a Ray session of ours leaves alone, and what it hands on."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from cluster.paths import own_paths
from cluster.session import Signals


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
