"""What may store responses in the browser: a service worker that stores everything, the browser's cache, and Turbo."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pytest_django import Settings

from browser.conftest import Tab
from browser.portable import PortableTab
from browser.site import ADA, GRACE, IDENTITY, SECURE_HOST, TAG, Page, Site, require_package, running_site

pytestmark = pytest.mark.browser
all_browsers = pytest.mark.browsers("chromium", "firefox", "webkit", reason="Each has a cache of its own.")

MIDDLEWARE = "hubspot_identify.middleware.IdentifiedPageMiddleware"
INLINE = '{% hubspot_identify account="inline" %}'
#: The cache-first strategy of Workbox: a failure to store a response does not affect the page.
WORKER = """
    addEventListener("install", () => skipWaiting());
    addEventListener("activate", (event) => event.waitUntil(clients.claim()));
    addEventListener("fetch", (event) => {
      const { request } = event;
      if (request.method === "GET" && new URL(request.url).origin === location.origin) event.respondWith(answer(event));
    });
    async function answer(event) {
      const cache = await caches.open("all");
      const stored = await cache.match(event.request);
      if (stored) return stored;
      const response = await fetch(event.request);
      event.waitUntil(cache.put(event.request, response.clone()).catch(() => {}));
      return response;
    }"""
STORED = """async () => {
    const cache = await caches.open("all");
    return (await cache.keys()).map((request) => new URL(request.url).pathname);
}"""


@pytest.fixture(params=[()], ids=["plain"])
def site(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Site]:
    with running_site(settings, SECURE_HOST, *request.param) as site:
        site.pages["/worker.js"] = Page(WORKER, headers={"Content-Type": "text/javascript"})
        site.page("/start/", "<script>navigator.serviceWorker.register('/worker.js')</script>")
        yield site


def start_worker(tab: PortableTab) -> None:
    tab.go("/start/")
    tab.wait_until("navigator.serviceWorker.controller")


def stored(tab: PortableTab) -> list[str]:
    paths: list[str] = tab.run(STORED)
    return paths


@all_browsers
def test_worker_that_stores_everything_does_not_store_the_identity(
    open_tab: Callable[[], PortableTab], site: Site
) -> None:
    """The page and the script come from the worker's cache. The next user of the browser is identified."""
    tab = open_tab()
    site.page("/", TAG)
    start_worker(tab)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.go()
    tab.expect_visitor("ada")
    tab.log_out()
    tab.log_in("grace")
    tab.expect_visitor("grace")
    assert ADA not in [*tab.emails("call"), *tab.emails("identity read")]
    assert site.requests.count("/") == 1
    assert {"/", "/static/hubspot_identify/identify.js"} <= set(stored(tab))
    assert IDENTITY not in stored(tab)


@pytest.mark.parametrize(
    ("site", "requests"), [((), 1), ((MIDDLEWARE,), 2)], ids=["plain", "middleware"], indirect=["site"]
)
@all_browsers
def test_inline_page_of_a_former_user_is_not_trusted(
    open_tab: Callable[[], PortableTab], site: Site, requests: int
) -> None:
    """With the middleware, the worker does not store the page. Without it, the script requests the visitor."""
    tab = open_tab()
    site.page("/", INLINE)
    start_worker(tab)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.log_out("/start/")
    tab.log_in("grace")
    tab.expect_visitor("grace")
    assert set(tab.emails("call")) == {GRACE}
    assert site.requests.count("/") == requests
    assert ("/" in stored(tab)) == (requests == 1)


def test_browsers_cache_does_not_store_the_identity(tab: Tab, site: Site) -> None:
    """Not even a request that prefers a stored response, however old, gets one."""
    site.page("/", "The page loads no chat.")
    tab.log_in("ada")
    fetch = f"fetch('{IDENTITY}', {{headers: {{'X-HubSpot-Identify': '1'}}, cache: 'force-cache'}}).then(r => r.json())"
    emails = [tab.run(f"{fetch}.then(({{identity}}) => identity.email)") for _ in range(2)]
    tab.page.context.clear_cookies(name="user")
    assert emails == [ADA, ADA]
    assert tab.run(f"{fetch}") == {"subject": None, "identity": None}
    assert site.identity_requests == 3


@pytest.mark.parametrize("tag", [TAG, INLINE], ids=["deferred", "inline"])
def test_turbo_stores_no_identity_with_the_page(tab: Tab, site: Site, tag: str) -> None:
    """The copies of pages for the back button contain no e-mail address and no token."""
    turbo = f'<script src="{require_package("@hotwired/turbo/dist/turbo.es2017-umd.js")}"></script>'
    for path in ("/", "/two/"):
        site.page(path, f"{turbo}<h1>{path}</h1><a href=/>home</a> <a href=/two/>two</a>{tag}")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    token = tab.settings["identificationToken"]
    for link, heading in (("two", "/two/"), ("home", "/")):
        tab.run("window.sameDocument = true")
        tab.page.get_by_role("link", name=link).click()
        tab.page.get_by_role("heading", name=heading, exact=True).wait_for()
    copies = tab.run("Object.values(Turbo.session.view.snapshotCache.snapshots).map((copy) => copy.element.outerHTML)")
    assert tab.run("sameDocument")
    assert len(copies) == 2
    for secret in (ADA, token):
        assert secret not in "".join(copies)
