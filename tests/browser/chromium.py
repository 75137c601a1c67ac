"""Debian's Chromium without a screen, driven by Playwright's Python package; nothing is downloaded for it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_S = 120
SIZE = {"width": 1280, "height": 800}
SCREENSHOTS = "SCREENSHOTS"
"""The environment variable that names a folder for pictures of what was looked at."""


def missing() -> str:
    """Say what this machine lacks for looking at pages; empty if nothing."""
    if importlib.util.find_spec("playwright") is None:
        return "needs the Python package playwright"
    return "" if executable() else "needs Debian's package chromium"


def executable() -> str | None:
    return shutil.which("chromium")


@contextmanager
def opened() -> Iterator[Any]:
    """Give a page of a fresh browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS), timeout=PATIENCE_S * 1000)
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(PATIENCE_S * 1000)
        yield page
        browser.close()


def photograph(page: Any, name: str) -> None:
    """Keep a picture of the page, where somebody wants pictures."""
    if folder := os.environ.get(SCREENSHOTS):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))
