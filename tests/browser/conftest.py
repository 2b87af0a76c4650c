from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Error,
    FrameLocator,
    Locator,
    Page,
    Playwright,
    Route,
    sync_playwright,
)
from pytest_django import Settings
from support.browser import TIMEOUT, launched_browser, running_display, running_webkit

from browser.portable import ANONYMOUS, CONTAINER, LAUNCHER, PortableTab, WebKitTab
from browser.site import RECORDER, RECORDER_ELEMENT, SECURE_HOST, Site, running_site

__all__ = ["ANONYMOUS", "CONTAINER"]  # for the test modules, beside what this one defines

HOST = "www.shop.test"  # HubSpot sets its cookies for the domain without "www."
STORED_SUBJECT = "localStorage.getItem('hubspot-identify:subject')"  # of the visitor whom the browser remembers
INLINE_CONTAINER = "#hubspot-conversations-inline-parent"
#: Markup that looks like the chat to a script that searches for its container.
INJECTED_CONTAINER = f'<div id="{CONTAINER[1:]}"><iframe srcdoc="a picture"></iframe></div>'
SKIP_DELAYS = """{
    const later = window.setTimeout;
    window.skippedDelays = [];
    window.setTimeout = (action, delay, ...rest) => {
        const isSkipped = %s.includes(delay);
        if (isSkipped) skippedDelays.push(delay);
        return later(action, isSkipped ? 0 : delay, ...rest);
    };
}"""


#: Firefox reports as errors what a policy blocks, which the page records as a violation, and requests that end.
FIREFOX_REPORTS = re.compile(
    "Content-Security-Policy|Cross-Origin Request Blocked|"
    "NetworkError when attempting to fetch|ServiceWorker intercepted the request"
)


# Scoped to the package: no other test runs while Playwright's event loop runs in this thread (see support/browser.py).
@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test in Chromium and Firefox, or in the browsers that its marker ``browsers`` names."""
    if "browser_name" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("browsers")
        names = marker.args if marker else ("chromium", "firefox")
        params = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in names]
        metafunc.parametrize("browser_name", params, scope="package")


@pytest.fixture(scope="package")
def browser(browser_name: str, playwright: Playwright) -> Iterator[Browser]:
    with launched_browser(playwright, browser_name) as browser:
        yield browser


@pytest.fixture
def site(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Site]:
    host = SECURE_HOST if request.node.get_closest_marker("secure_host") else HOST
    with running_site(settings, host) as site:
        yield site


class Tab(PortableTab):
    """A tab of Chromium or Firefox, which Playwright controls."""

    def __init__(self, page: Page, site: Site) -> None:
        super().__init__(site)
        self.page = page
        self.errors: list[str] = []
        page.add_init_script(RECORDER)
        page.on("pageerror", self._add_error)

    def _add_error(self, error: Error) -> None:
        if not FIREFOX_REPORTS.search(f"{error.name} {error}"):
            self.errors.append(str(error))

    # -- what each browser does in its own way

    def go(self, path: str = "/") -> None:
        self.page.goto(self.site.url(path))

    def run(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def run_in_chat(self, script: str, argument: Any = None) -> Any:
        # Locators wait for the page, for which Firefox reports no end after it has restored it.
        return next(each for each in self.page.frames if "/sandbox/chat/" in each.url).evaluate(script, argument)

    def wait_until(self, condition: str, argument: Any = None) -> None:
        self.page.wait_for_function(condition, arg=argument, polling="raf")

    def click(self, selector: str) -> None:
        self.page.locator(selector).click()

    def hover(self, selector: str) -> None:
        self.page.locator(selector).hover()

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def cookies(self) -> dict[str, str]:
        return {each["name"]: each["value"] for each in self.page.context.cookies()}

    def set_cookie(self, name: str, value: str, domain: str = "", **options: Any) -> None:
        domain = domain or f".{self.site.host.removeprefix('www.')}"
        cookie: Any = {"name": name, "value": value, "domain": domain, "path": "/", **options}
        self.page.context.add_cookies([cookie])

    def delete_cookie(self, name: str) -> None:
        self.page.context.clear_cookies(name=name)

    # -- the page

    def wait_until_idle(self) -> None:
        """Let the page do all that it does without delay."""
        self.run("new Promise(requestIdleCallback)")

    def insert_template(self) -> None:
        """Insert the content of the page's ``<template>``, and run its scripts."""
        self.run("document.body.append(document.querySelector('template').content.cloneNode(true))")

    # -- time

    def fake_clock(self) -> None:
        """Replace the timers of the pages that follow, so that :meth:`skip` can advance them."""
        self.page.clock.install()

    def skip(self, milliseconds: int) -> None:
        """Let this time pass at once. All timers run that are due."""
        self.page.clock.run_for(milliseconds)

    def skip_delays(self, *delays: int) -> None:
        """Run timers with these delays at once in the pages that follow, and record them as ``skippedDelays``."""
        self.page.add_init_script(SKIP_DELAYS % list(delays))

    # -- the chat

    @property
    def container(self) -> Locator:
        return self.page.locator(CONTAINER)

    @property
    def chat(self) -> FrameLocator:
        return self.page.frame_locator(f"{CONTAINER} iframe")

    @property
    def button(self) -> Locator:
        """The app's own button, which is there until the chat is loaded."""
        return self.page.locator(LAUNCHER)

    def type_message(self, text: str) -> None:
        """Open the chat and type a message without sending it."""
        self.wait_for_chat()
        self.click_in_chat(self.chat.locator("#launcher"))
        self.chat.get_by_label("Message").fill(text)

    def send_message(self, text: str) -> None:
        self.type_message(text)
        self.click_in_chat(self.chat.get_by_role("button", name="Send"))
        self.chat.get_by_role("listitem").get_by_text(text).wait_for()

    def click_in_chat(self, element: Locator) -> None:
        """Click an element of the chat. In frames of other sites, Playwright's mouse has no effect on Firefox."""
        browser = self.page.context.browser
        if browser and browser.browser_type.name == "firefox":
            element.evaluate("element => element.click()")
        else:
            element.click()

    # -- requests

    def hold(self, address: str) -> Callable[[], Route]:
        """Hold all requests for an address. Return a function that waits for the next one and returns its route."""
        held: list[Route] = []

        def hold(route: Route) -> None:
            held.append(route)

        self.page.route(address, hold)

        def wait_for_route() -> Route:
            deadline = time.monotonic() + TIMEOUT / 1000
            while not held:  # pragma: no cover - on a fast machine the request has already arrived
                assert time.monotonic() < deadline, f"There was no request for {address}."
                self.page.wait_for_timeout(20)  # Playwright calls the handler meanwhile
            return held.pop()

        return wait_for_route

    def block(self, address: str) -> list[str]:
        """Let requests for an address fail. Return the list to which their URLs are added."""
        urls: list[str] = []

        def abort(route: Route) -> None:
            urls.append(route.request.url)
            route.abort()

        self.page.route(address, abort)
        return urls


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as context:
        context.set_default_timeout(TIMEOUT)
        yield context


@contextmanager
def opened_tab(context: BrowserContext, site: Site) -> Iterator[Tab]:
    """Open a tab. An uncaught error in its pages fails the test."""
    tab = Tab(context.new_page(), site)
    yield tab
    tab.page.unroute_all(behavior="ignoreErrors")
    assert tab.errors == []


@pytest.fixture
def tab(context: BrowserContext, site: Site) -> Iterator[Tab]:
    """A tab of Chromium or Firefox."""
    with opened_tab(context, site) as tab:
        yield tab


@pytest.fixture
def other_tab(context: BrowserContext, site: Site) -> Iterator[Tab]:
    """A second tab of the same browser."""
    with opened_tab(context, site) as tab:
        yield tab


# ---- all browsers


@pytest.fixture(scope="package")
def display() -> Iterator[str]:
    with running_display() as display:
        yield display


@pytest.fixture
def open_tab(request: pytest.FixtureRequest, browser_name: str, site: Site) -> Iterator[Callable[[], PortableTab]]:
    """A function that opens a tab of the browser, for tests whose marker ``browsers`` names WebKit as well."""
    with ExitStack() as stack:
        if browser_name == "webkit":
            site.head += RECORDER_ELEMENT
            driver = stack.enter_context(running_webkit(request.getfixturevalue("display")))
            yield lambda: WebKitTab(driver, site)
        else:
            context = request.getfixturevalue("context")
            yield lambda: stack.enter_context(opened_tab(context, site))
