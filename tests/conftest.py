"""How the tests share the machine: a few files at a time, with one thread each, but never two Ray clusters at once."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

RAY = ("tests/cluster/", "tests/hosts/", "tests/test_faults.py", "tests/test_gang_sweep.py", "tests/test_mistakes.py")
"""What starts Ray."""

# How long an example takes says how busy the machine is, and not whether the code is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps the tests of a file together, for their fixtures' sake, and all that start Ray."""

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if nodeid.startswith(RAY) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Share the tests out by file. (xdist's own --dist loadgroup does nothing under pytest 9.2.)"""
    return ByFile(config, log)
