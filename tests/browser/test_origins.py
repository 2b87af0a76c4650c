"""Pages of other sites and the identity endpoint.

Chromium treats these hosts as secure, so it sends the headers that say where a request comes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from playwright.sync_api import BrowserContext, Playwright
from pytest_django import Settings
from support.browser import TIMEOUT, launch_options
from support.site import serving_site

from browser.conftest import Tab
from browser.site import IDENTITY, TAG, Site, View, running_site

pytestmark = [
    pytest.mark.browser,
    pytest.mark.browsers("chromium", reason="Firefox partitions all cookies of other sites."),
]

HOST = "www.shop.localhost"
CROSS_SITE = "evil.localhost"
SAME_SITE = "blog.shop.localhost"
ADDRESS = "127.0.0.1"
OTHERS = [CROSS_SITE, SAME_SITE, ADDRESS]
CORS = "corsheaders.middleware.CorsMiddleware"


@dataclass
class IdentityRequest:
    """A request to the endpoint, as the site received it, and the response."""

    method: str
    site: str | None  # of Sec-Fetch-Site
    destination: str | None  # of Sec-Fetch-Dest
    has_cookies: bool  # the visitor's
    status: int
    content: str


received: list[IdentityRequest] = []


def recorder(get_response: View) -> View:
    """Middleware that records requests. Playwright does not report all those whose responses Chromium blocks."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if request.path == IDENTITY:
            site, destination = (request.headers.get(f"Sec-Fetch-{name}") for name in ("Site", "Dest"))
            content = getattr(response, "content", b"").decode()
            has_cookies = "user" in request.COOKIES
            received.append(
                IdentityRequest(str(request.method), site, destination, has_cookies, response.status_code, content)
            )
        return response

    return handle


@pytest.fixture
def site(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(settings, HOST) as site:
        settings.MIDDLEWARE = [f"{__name__}.recorder", *getattr(request, "param", []), *settings.MIDDLEWARE]
        site.page("/", TAG)
        site.page("/plain/", "Ada's own page")
        with serving_site() as address:
            site.origin = address.replace("127.0.0.1", HOST)
            yield site


@pytest.fixture
def context(playwright: Playwright, tmp_path: Path) -> Iterator[BrowserContext]:
    """A browser that sends cookies with requests from other sites. Contexts like those of the other tests do not."""
    preferences = {"profile": {"cookie_controls_mode": 0, "block_third_party_cookies": False}}
    (tmp_path / "Default").mkdir()
    (tmp_path / "Default" / "Preferences").write_text(json.dumps(preferences))
    with playwright.chromium.launch_persistent_context(tmp_path, **launch_options()) as context:
        context.set_default_timeout(TIMEOUT)
        yield context


@pytest.fixture
def tab(tab: Tab) -> Tab:
    """Ada is logged in and identified, and her cookies are sent wherever the browser sends any."""
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.set_cookie("user", "ada", HOST, sameSite="None", secure=True, httpOnly=True)
    return tab


def open_page_of(tab: Tab, host: str) -> None:
    tab.page.goto(tab.site.url("/plain/").replace(HOST, host))
    received.clear()


ELEMENTS = {
    "img": "src",
    "script": "src",
    "iframe": "src",
    "object": "data",
    "embed": "src",
    "video": "src",
    "link": "href",
}
ADD_ELEMENT = """([url, tag, attribute]) => new Promise((done) => {
    const element = document.createElement(tag);
    element.onload = () => done("load");
    element.onerror = () => done("error");
    if (tag === "link") element.rel = "stylesheet";
    element[attribute] = url;
    document.body.append(element);
})"""
FETCH = """async ([url, options]) => {
    try { return await (await fetch(url, {credentials: "include", ...options})).text(); }
    catch (error) { return error.name; }
}"""
SUBMIT_FORM = """url => {
    const form = document.createElement("form");
    form.action = url;
    document.body.append(form);
    form.submit();
}"""
FETCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "opaque": {"mode": "no-cors"},
    "with the app's header": {"headers": {"X-HubSpot-Identify": "1"}},
    "opaque with the app's header": {"mode": "no-cors", "headers": {"X-HubSpot-Identify": "1"}},
    "post": {"method": "POST", "body": "x", "mode": "no-cors"},
}


def refusal(request: IdentityRequest) -> str:
    """Return the text of a response that refuses the request."""
    assert request.status == 403
    assert "ada" not in request.content
    return request.content


@pytest.mark.parametrize("host", OTHERS)
def test_no_other_site_gets_an_identity(tab: Tab, site: Site, host: str) -> None:
    """Fetch, element, frame, form and new tab send the visitor's cookies. They are refused, and read nothing."""
    url = site.url(IDENTITY)
    open_page_of(tab, host)
    for options in FETCHES.values():
        assert tab.run(FETCH, [url, options]) in {"TypeError", ""}
    for name, attribute in ELEMENTS.items():
        tab.run(ADD_ELEMENT, [url, name, attribute])
    with tab.page.context.expect_page() as opened:
        tab.run("url => void window.open(url)", url)
    opened.value.wait_for_load_state()
    assert opened.value.inner_text("body") == refusal(received[-1])
    tab.run(SUBMIT_FORM, url)
    tab.page.wait_for_url(f"{url}**")
    assert tab.page.inner_text("body") == refusal(received[-1])
    assert {(each.method, each.status) for each in received} == {("GET", 403), ("POST", 405), ("OPTIONS", 405)}
    assert {each.site for each in received} == {"same-site" if host == SAME_SITE else "cross-site"}
    with_cookies = {each.destination for each in received if each.has_cookies}
    assert with_cookies == {"empty", "image", "script", "style", "iframe", "object", "embed", "video", "document"}


def test_elements_and_address_bar_of_the_site_get_no_identity(tab: Tab, site: Site) -> None:
    """Only requests by scripts are answered, even on a page of the site."""
    tab.go("/plain/")
    received.clear()
    for name, attribute in ELEMENTS.items():
        tab.run(ADD_ELEMENT, [IDENTITY, name, attribute])
    tab.go(IDENTITY)
    assert tab.page.inner_text("body") == refusal(received[-1])
    assert [(each.site, each.has_cookies, each.status) for each in received] == [
        *[("same-origin", True, 403)] * len(ELEMENTS),
        ("none", True, 403),
    ]


@pytest.mark.parametrize(
    "allowed", [["content-type"], ["x-hubspot-identify"]], ids=["usual headers", "with the app's header"]
)
@pytest.mark.parametrize("site", [[CORS]], indirect=True, ids=["cors"])
def test_permissive_cors_gives_other_sites_no_identity(
    tab: Tab, site: Site, settings: Settings, allowed: list[str]
) -> None:
    """django-cors-headers allows all origins and credentials: other sites read the site's pages, but no identity."""
    settings.CORS_ALLOW_ALL_ORIGINS = settings.CORS_ALLOW_CREDENTIALS = True
    settings.CORS_ALLOW_HEADERS = allowed
    for host in OTHERS:
        open_page_of(tab, host)
        assert "Ada's own page" in tab.run(FETCH, [site.url("/plain/"), {}])
        results = {name: tab.run(FETCH, [site.url(IDENTITY), options]) for name, options in FETCHES.items()}
        gets = [each for each in received if each.method == "GET"]
        assert {(each.status, each.has_cookies) for each in gets} == {(403, True)}
        assert results["plain"] == refusal(gets[0])
        expected = refusal(gets[0]) if "x-hubspot-identify" in allowed else "TypeError"
        assert results["with the app's header"] == expected
