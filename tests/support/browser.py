"""Headless Chromium for the tests that need a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from .programs import require

TIMEOUT = 30_000  # milliseconds; only a test that fails waits that long
expect.set_options(timeout=TIMEOUT)  # applies to all tests of the process

# Chromium opens a window for each browser context, with two hidden pages for the suggestions of the address bar. They
# use more processor time than the page of the test. It also starts a spare process for the next page.
_UNUSED = ["WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup", "SpareRendererForSitePerProcess"]
# Playwright's own list. Chromium uses only the last list that it is given.
_DISABLED_BY_PLAYWRIGHT = [
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsUpgrades",
    "HttpsFirstBalancedModeAutoEnable",
    "MediaRouter",
    "PaintHolding",
    "ThirdPartyStoragePartitioning",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "OptimizationHints",
    "NetworkTimeServiceQuerying",
    "AimEnabled",
    "PreconnectToSearch",
]


def launch_options(**options: Any) -> dict[str, Any]:
    """Return Playwright's options for a Chromium that resolves all of ``*.test`` to this machine."""
    return {
        "executable_path": require("chromium", "chromium-browser", "google-chrome"),
        "args": [
            "--no-sandbox",
            "--host-resolver-rules=MAP *.test 127.0.0.1",
            f"--disable-features={','.join([*_DISABLED_BY_PLAYWRIGHT, *_UNUSED])}",
        ],
        **options,
    }


@contextmanager
def launched_chromium(playwright: Playwright, **options: Any) -> Iterator[Browser]:
    """Run a Chromium. ``options`` are those of Playwright's ``launch``."""
    browser = playwright.chromium.launch(**launch_options(**options))
    yield browser
    browser.close()


@contextmanager
def running_chromium(**options: Any) -> Iterator[Browser]:
    """Run Playwright and a Chromium. ``options`` are those of Playwright's ``launch``.

    While Playwright runs, its event loop runs in this thread, where Django then refuses to use the ORM. Use this only
    in modules of browser tests.
    """
    with sync_playwright() as playwright, launched_chromium(playwright, **options) as browser:
        yield browser
