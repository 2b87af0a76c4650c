"""Headless Chromium for the tests that need a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, expect, sync_playwright

from .programs import require

TIMEOUT = 30_000  # milliseconds; only ever waited for by a test that fails
expect.set_options(timeout=TIMEOUT)  # of all tests of the process


@contextmanager
def running_chromium(**options: Any) -> Iterator[Browser]:
    """A Chromium for which all of ``*.test`` is this machine; ``options`` are those of Playwright's ``launch``.

    While it runs, Playwright's event loop is this thread's, and Django refuses the ORM there: keep it to modules of
    browser tests.
    """
    program = require("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP *.test 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments, **options)
        yield browser
        browser.close()
