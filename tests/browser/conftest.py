from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Locator, Page, Playwright, Route, sync_playwright
from pytest_django import Settings
from support.browser import TIMEOUT, launched_chromium

from browser.site import Site, running_site

CONTAINER = "#hubspot-messages-iframe-container"
HOST = "www.shop.test"  # HubSpot sets its cookies for the domain without "www."
STORED_SUBJECT = "localStorage.getItem('hubspot-identify:subject')"  # of the visitor whom the browser remembers
#: Markup that looks like the chat to a script that searches for its container.
INJECTED_CONTAINER = f'<div id="{CONTAINER[1:]}"><iframe srcdoc="a picture"></iframe></div>'
ANONYMOUS = "unknown"  # what the sandbox's chat calls a visitor who is not identified

# Runs before the page's own scripts. Records the events of the app and the violations of the page's policy.
RECORDER = """
if (window.top === window) {
  window.recordedEvents = [];
  const dispatch = EventTarget.prototype.dispatchEvent;
  EventTarget.prototype.dispatchEvent = function (event) {
    if (event.type.startsWith("hubspot-identify:")) {
      recordedEvents.push([event.type.slice("hubspot-identify:".length), event.detail]);
    }
    return dispatch.call(this, event);
  };
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (event) => {
    violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`);
  });
}
"""
SKIP_DELAYS = """{
    const later = window.setTimeout;
    window.skippedDelays = [];
    window.setTimeout = (action, delay, ...rest) => {
        const isSkipped = %s.includes(delay);
        if (isSkipped) skippedDelays.push(delay);
        return later(action, isSkipped ? 0 : delay, ...rest);
    };
}"""
# Polled by the browser at each frame, so that the test goes on as soon as it is true.
HAS_CHAT_FOR = """([container, visitor]) => {
    const containers = document.querySelectorAll(container);
    const frame = containers[0]?.querySelector("iframe");
    return containers.length === 1 && frame?.contentDocument?.body?.dataset.visitor === visitor;
}"""
HAS_LOGGED = """([kind, times]) =>
    window.__hubspotSandbox?.log.filter((entry) => entry.what === kind).length >= times"""
HAS_EVENT = "([name, times]) => window.recordedEvents.filter((event) => event[0] === name).length >= times"


# Scoped to the package: no other test runs while Playwright's event loop runs in this thread (see support/browser.py).
@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="package")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    with launched_chromium(playwright) as browser:
        yield browser


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    with running_site(settings, HOST) as site:
        yield site


class Tab:
    """A tab of the browser that visits the site."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page = page
        self.site = site
        self.errors: list[str] = []
        page.add_init_script(RECORDER)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def go(self, path: str = "/") -> None:
        self.page.goto(self.site.url(path))

    def run(self, script: str, argument: Any = None) -> Any:
        """Evaluate JavaScript in the page, and return its value."""
        return self.page.evaluate(script, argument)

    def wait_until(self, condition: str, argument: Any = None) -> None:
        """Wait until a JavaScript expression or function is true in the page."""
        self.page.wait_for_function(condition, arg=argument, polling="raf")

    def wait_until_idle(self) -> None:
        """Let the page do all that it does without delay."""
        self.run("new Promise(requestIdleCallback)")

    def insert_template(self) -> None:
        """Insert the content of the page's ``<template>``, and run its scripts."""
        self.run("document.body.append(document.querySelector('template').content.cloneNode(true))")

    def log_in(self, name: str, then: str = "/") -> None:
        self.go(f"/login/{name}/?next={then}")

    def log_out(self, then: str = "/") -> None:
        self.go(f"/logout/?next={then}")

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
        return self.page.locator(".hubspot-identify-launcher button")

    def expect_visitor(self, name: str) -> None:
        """Wait until there is exactly one chat, and HubSpot has identified this visitor in it."""
        self.wait_until(HAS_CHAT_FOR, [CONTAINER, email(name)])

    def type_message(self, text: str) -> None:
        """Open the chat and type a message without sending it."""
        self.chat.locator("#launcher").click()
        self.chat.get_by_label("Message").fill(text)

    def send_message(self, text: str) -> None:
        self.type_message(text)
        self.chat.get_by_role("button", name="Send").click()
        self.chat.get_by_role("listitem").get_by_text(text).wait_for()

    # -- what happened

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """The entries of this kind in the log of the sandbox's widget."""
        log: list[dict[str, Any]] = self.run("window.__hubspotSandbox?.log ?? []")
        return [entry for entry in log if entry["what"] == kind]

    def emails(self, kind: str) -> list[str | None]:
        """The e-mail addresses in those entries."""
        return [entry["email"] for entry in self.logged(kind)]

    def wait_for_log(self, kind: str, times: int = 1) -> None:
        self.wait_until(HAS_LOGGED, [kind, times])

    def wait_for_event(self, name: str, times: int = 1) -> None:
        """Wait until identify.js has emitted this event so often."""
        self.wait_until(HAS_EVENT, [name, times])

    @property
    def events(self) -> list[str]:
        """The events of the app so far, in order, without those that it passes on from HubSpot."""
        names = {"ready", "identified", "anonymous", "failed", "reset"}
        return [name for name, _ in self.run("recordedEvents") if name in names]

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.run("hubspotIdentify.status()")
        return status

    @property
    def settings(self) -> dict[str, Any]:
        """HubSpot's settings in the page."""
        settings: dict[str, Any] = self.run("window.hsConversationsSettings")
        return settings

    # -- cookies

    def cookie(self, name: str) -> str | None:
        return next((each["value"] for each in self.page.context.cookies() if each["name"] == name), None)

    def set_cookie(self, name: str, value: str, domain: str = ".shop.test", **options: Any) -> None:
        cookie: Any = {"name": name, "value": value, "domain": domain, "path": "/", **options}
        self.page.context.add_cookies([cookie])

    # -- requests

    def hold(self, address: str) -> Callable[[], Route]:
        """Hold a request. Return a function that waits for the request and returns its route."""
        held: list[Route] = []
        self.page.route(address, lambda route: held.append(route))

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


def email(name: str) -> str:
    return name if name == ANONYMOUS else f"{name}@example.com"


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    with chromium.new_context() as context:
        context.set_default_timeout(TIMEOUT)
        yield context


def opened_tab(context: BrowserContext, site: Site) -> Iterator[Tab]:
    tab = Tab(context.new_page(), site)
    yield tab
    tab.page.unroute_all(behavior="ignoreErrors")
    assert tab.errors == []


@pytest.fixture
def tab(context: BrowserContext, site: Site) -> Iterator[Tab]:
    """A tab. An uncaught error in its pages fails the test."""
    yield from opened_tab(context, site)


@pytest.fixture
def other_tab(context: BrowserContext, site: Site) -> Iterator[Tab]:
    """A second tab of the same browser."""
    yield from opened_tab(context, site)
