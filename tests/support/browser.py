"""Chromium, Firefox and WebKit for the tests that need a real browser."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Playwright, expect, sync_playwright
from selenium.webdriver import WebKitGTK, WebKitGTKOptions
from selenium.webdriver.webkitgtk.service import Service

from .programs import lacking, require

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


def _launch_chromium(playwright: Playwright, *, has_page_cache: bool) -> Browser:
    ignored = ["--disable-back-forward-cache"] if has_page_cache else []
    return playwright.chromium.launch(**launch_options(ignore_default_args=ignored))


def _launch_firefox(playwright: Playwright, *, has_page_cache: bool) -> Browser:
    program = require("firefox-esr", "firefox")
    preferences: dict[str, str | float | bool] = {
        "network.dns.native-is-localhost": True,  # for all names
        "browser.sessionhistory.max_total_viewers": 8 if has_page_cache else 0,
        "fission.bfcacheInParent": has_page_cache,
    }
    # Playwright controls a Firefox that is not its own build by WebDriver BiDi.
    return playwright.firefox.launch(channel="moz-firefox", executable_path=program, firefox_user_prefs=preferences)


_LAUNCH = {"chromium": _launch_chromium, "firefox": _launch_firefox}


@contextmanager
def launched_browser(playwright: Playwright, name: str, *, has_page_cache: bool = False) -> Iterator[Browser]:
    """Run a Chromium or a Firefox.

    Args:
        playwright: that controls it.
        name: ``chromium`` or ``firefox``.
        has_page_cache: whether it has a back/forward cache. Some methods of Playwright wait forever for such a page.
    """
    browser = _LAUNCH[name](playwright, has_page_cache=has_page_cache)
    yield browser
    browser.close()


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Run Playwright and a Chromium.

    While Playwright runs, its event loop runs in this thread, where Django then refuses to use the ORM. Use this only
    in modules of browser tests.
    """
    with sync_playwright() as playwright, launched_browser(playwright, "chromium") as browser:
        yield browser


@contextmanager
def running_display() -> Iterator[str]:
    """Run an X server that has no screen, and yield the name of its display."""
    program = require("Xvfb")
    read, write = os.pipe()
    command = [program, "-displayfd", str(write), "-nolisten", "tcp", "-noreset"]
    with subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL) as server:
        os.close(write)
        try:
            with open(read) as numbers:
                number = numbers.readline().strip()
            assert number, "Xvfb did not start."
            yield f":{number}"
        finally:
            server.terminate()


def require_minibrowser() -> str:
    """Return the path of WebKit's small browser. Without it, the test is :func:`lacking`."""
    paths = sorted(Path("/usr/lib").glob("*/webkit*gtk-*/MiniBrowser"))
    return str(paths[0]) if paths else lacking("WebKit's MiniBrowser is not installed")


@contextmanager
def running_webkit(display: str) -> Iterator[WebKitGTK]:
    """Run a WebKit with an empty profile. It resolves only the names below ``localhost`` to this machine."""
    program, environment = require_minibrowser(), {**os.environ, "DISPLAY": display}
    version = subprocess.run([program, "--version"], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    options = WebKitGTKOptions()
    options.binary_location = program
    options.add_argument("--automation")
    options.set_capability("browserName", "MiniBrowser")
    # The driver compares this with the version of the browser.
    options.set_capability("browserVersion", re.findall(r"[\d.]+", version.stdout)[0])
    driver = WebKitGTK(options, Service(require("WebKitWebDriver"), env=environment))
    driver.set_script_timeout(TIMEOUT / 1000)
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def running_minibrowser(display: str, folder: Path, url: str) -> Iterator[None]:
    """Run WebKit as a user does, without control by the test, and open a page. Its profile is in the folder."""
    environment = {**os.environ, "DISPLAY": display, "XDG_CACHE_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    command = [require_minibrowser(), url]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            yield
        finally:
            browser.terminate()
