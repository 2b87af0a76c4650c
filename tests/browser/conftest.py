from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Page, Route, expect
from pytest_django import Settings
from support.browser import TIMEOUT, running_chromium

from browser.site import PORTAL, Site, running_site

CONTAINER = "#hubspot-messages-iframe-container"
HOST = "www.shop.test"

# Notes down what the page's scripts hear and what they complain of, from before the first of them on.
WITNESS = """
if (window.top === window) {
  window.heard = [];
  const dispatch = EventTarget.prototype.dispatchEvent;
  EventTarget.prototype.dispatchEvent = function (event) {
    if (event.type.startsWith("hubspot-identify:")) {
      heard.push([event.type.slice("hubspot-identify:".length), event.detail]);
    }
    return dispatch.call(this, event);
  };
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (event) => {
    violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`);
  });
}
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    with running_site(settings, HOST) as site:
        yield site


class Visit:
    """One tab, and what can be seen in it."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page = page
        self.site = site
        self.errors: list[str] = []
        page.add_init_script(WITNESS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def go(self, path: str = "/") -> None:
        self.page.goto(self.site.url(path))

    def run(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def log_in(self, name: str, then: str = "/") -> None:
        self.go(f"/login/{name}/?next={then}")

    def log_out(self, then: str = "/") -> None:
        self.go(f"/logout/?next={then}")

    # -- the chat

    @property
    def container(self) -> Any:
        return self.page.locator(CONTAINER)

    @property
    def chat(self) -> FrameLocator:
        return self.page.frame_locator(f"{CONTAINER} iframe")

    def expect_visitor(self, name: str) -> None:
        """There is one living chat, and it takes its visitor for this one; ``unknown`` for nobody."""
        expect(self.chat.locator("body")).to_have_attribute("data-visitor", email(name))
        expect(self.container).to_have_count(1)

    def say(self, text: str) -> None:
        self.chat.locator("#launcher").click()
        self.chat.get_by_label("Message").fill(text)
        self.chat.get_by_role("button", name="Send").click()
        expect(self.chat.get_by_role("listitem").last).to_have_text(text)

    # -- what happened

    def happened(self, what: str) -> list[dict[str, Any]]:
        """What the stand-in for the widget noted of this kind."""
        log: list[dict[str, Any]] = self.run("window.__hubspotSandbox?.log ?? []")
        return [entry for entry in log if entry["what"] == what]

    def wait_for(self, what: str, times: int = 1) -> None:
        self.page.wait_for_function(
            "([what, times]) => window.__hubspotSandbox?.log.filter(each => each.what === what).length >= times",
            arg=[what, times],
        )

    def wait_heard(self, name: str, times: int = 1) -> None:
        """Wait until identify.js has told so often of this event."""
        self.page.wait_for_function(
            "([name, times]) => window.heard.filter(each => each[0] === name).length >= times", arg=[name, times]
        )

    @property
    def heard(self) -> list[str]:
        """Our own events so far, in their order."""
        names = {"ready", "identified", "anonymous", "failed", "reset"}
        return [name for name, _ in self.run("window.heard") if name in names]

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.run("hubspotIdentify.status()")
        return status

    @property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.run("window.hsConversationsSettings")
        return settings

    def cookie(self, name: str) -> str | None:
        return next((each["value"] for each in self.page.context.cookies() if each["name"] == name), None)


def email(name: str) -> str:
    return name if name == "unknown" else f"{name}@example.com"


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    with chromium.new_context() as context:
        context.set_default_timeout(TIMEOUT)
        yield context


@pytest.fixture
def visit(context: BrowserContext, site: Site) -> Iterator[Visit]:
    """A tab on the site. Any uncaught error in the page fails the test."""
    visit = Visit(context.new_page(), site)
    yield visit
    visit.page.unroute_all(behavior="ignoreErrors")
    assert visit.errors == []


@pytest.fixture
def other_tab(context: BrowserContext, site: Site) -> Iterator[Visit]:
    """A second tab of the same browser."""
    visit = Visit(context.new_page(), site)
    yield visit
    visit.page.unroute_all(behavior="ignoreErrors")
    assert visit.errors == []


def pretend_hubspot(visit: Visit, site: Site) -> None:
    """HubSpot's own hosts, with the stand-in behind them: loader, bundle, API and iframe where the real ones are."""

    def stand_in(route: Route) -> None:
        path = re.sub(r"^https://[^/]+", "", route.request.url)
        path = f"/loader{path}" if path.startswith(f"/{PORTAL}.js") else path
        response = route.fetch(url=site.url(f"/sandbox{path}").replace(HOST, "127.0.0.1"))
        body = response.text()
        if "/loader/" in path:
            body = body.replace('new URL("../embed.js", here)', 'new URL("https://js.usemessages.com/embed.js")')
        if "/embed.js" in path:
            body = body.replace("document.currentScript.src", f'"https://app.hubspot.com/embed.js?portal={PORTAL}"')
        headers = {"Content-Type": response.headers["content-type"], "Access-Control-Allow-Origin": "*"}
        route.fulfill(status=response.status, body=body, headers=headers)

    hosts = r"^https://(js\.hs-scripts\.com|js\.usemessages\.com|app\.hubspot\.com)/"
    visit.page.route(re.compile(hosts), stand_in)


def set_real_loader(settings: Settings) -> None:
    own = dict(settings.HUBSPOT_IDENTIFY)
    del own["LOADER_URL"]
    settings.HUBSPOT_IDENTIFY = own
