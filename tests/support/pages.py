"""Live pages in a real browser; tests that import this are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)

Browser, Page, expect = sync_api.Browser, sync_api.Page, sync_api.expect
#: Milliseconds that a page may take to show something, on a machine that does much else.
SOON = 20_000


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser."""
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def page(browser: Browser, api: int, **options: object) -> Iterator[Page]:
    """The page at this port, which must not complain of anything but that its daemon is away."""
    context = browser.new_context(**options)
    shown = context.new_page()
    shown.set_default_timeout(SOON)
    wrong: list[str] = []
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on("console", lambda told: "Content Security" in told.text and wrong.append(told.text))
    shown.goto(f"http://127.0.0.1:{api}/")
    yield shown
    assert not wrong
    context.close()
