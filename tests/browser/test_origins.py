"""Other people's pages and the identity endpoint, on hosts that Chromium takes for secure, so that it says with each
request where that comes from.
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
from playwright.sync_api import Browser, BrowserContext
from pytest_django import Settings
from support.browser import TIMEOUT
from support.programs import require
from support.site import serving_site

from browser.conftest import Visit
from browser.site import Site, View, running_site

pytestmark = pytest.mark.browser

HOST = "www.shop.localhost"
OTHERS = {"cross-site": "evil.localhost", "same-site": "blog.shop.localhost", "address": "127.0.0.1"}
CORS = "corsheaders.middleware.CorsMiddleware"
ENDPOINT = "/hubspot/identity/"
REFUSAL = "Only for scripts of this site."


@dataclass
class Asked:
    """A request of the endpoint, as it arrived."""

    method: str
    site: str | None  # of Sec-Fetch-Site
    purpose: str | None
    cookies: bool  # whether the visitor's were with it
    status: int


asked: list[Asked] = []


def noting(get_response: View) -> View:
    """Middleware that sees what arrives: Chromium itself does not tell all of requests whose answers it blocks."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if request.path == ENDPOINT:
            said = (request.headers.get(f"Sec-Fetch-{name}") for name in ("Site", "Dest"))
            asked.append(Asked(str(request.method), *said, "user" in request.COOKIES, response.status_code))
        return response

    return handle


@pytest.fixture
def site(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(settings, HOST) as site:
        settings.MIDDLEWARE = [f"{__name__}.noting", *getattr(request, "param", []), *settings.MIDDLEWARE]
        site.page("/", "{% hubspot_identify %}")
        site.page("/plain/", "Ada's own page")
        with serving_site() as address:
            site.origin = address.replace("127.0.0.1", HOST)
            yield site


@pytest.fixture
def context(chromium: Browser, tmp_path: Path) -> Iterator[BrowserContext]:
    """A browser that sends cookies along from other sites, too; windows like those of the other tests don't."""
    preferences = {"profile": {"cookie_controls_mode": 0, "block_third_party_cookies": False}}
    (tmp_path / "Default").mkdir()
    (tmp_path / "Default" / "Preferences").write_text(json.dumps(preferences))
    program = require("chromium", "chromium-browser", "google-chrome")
    with chromium.browser_type.launch_persistent_context(
        tmp_path, executable_path=program, args=["--no-sandbox"]
    ) as context:
        context.set_default_timeout(TIMEOUT)
        yield context


@pytest.fixture
def ada(visit: Visit, site: Site) -> Visit:
    """Logged in, known, and with cookies that go along wherever the browser lets any go."""
    visit.log_in("ada")
    visit.expect_visitor("ada")
    anywhere = {"sameSite": "None", "secure": True, "httpOnly": True}
    visit.page.context.add_cookies([{"name": "user", "value": "ada", "domain": HOST, "path": "/", **anywhere}])  # type: ignore[list-item]
    return visit


def go_elsewhere(visit: Visit, host: str) -> None:
    visit.page.goto(visit.site.url("/plain/").replace(HOST, host))
    asked.clear()


ELEMENTS = {
    "img": "src",
    "script": "src",
    "iframe": "src",
    "object": "data",
    "embed": "src",
    "video": "src",
    "link": "href",
}
EMBED = """([url, tag, attribute]) => new Promise((done) => {
    const element = document.createElement(tag);
    element.onload = () => done("load");
    element.onerror = () => done("error");
    if (tag === "link") element.rel = "stylesheet";
    element[attribute] = url;
    document.body.append(element);
})"""
ASK = """async ([url, options]) => {
    try { return await (await fetch(url, {credentials: "include", ...options})).text(); }
    catch (error) { return error.name; }
}"""
SUBMIT = """url => {
    const form = document.createElement("form");
    form.action = url;
    document.body.append(form);
    form.submit();
}"""
FETCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "opaque": {"mode": "no-cors"},
    "with our header": {"headers": {"X-HubSpot-Identify": "1"}},
    "opaque with our header": {"mode": "no-cors", "headers": {"X-HubSpot-Identify": "1"}},
    "post": {"method": "POST", "body": "x", "mode": "no-cors"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_no_other_site_gets_an_identity(ada: Visit, site: Site, other: str) -> None:
    """By fetch, element, frame, form or new tab, with the visitor's cookies: refused, and nothing to read."""
    url = site.url(ENDPOINT)
    go_elsewhere(ada, OTHERS[other])
    for options in FETCHES.values():
        assert ada.run(ASK, [url, options]) in {"TypeError", ""}
    for tag, attribute in ELEMENTS.items():
        ada.run(EMBED, [url, tag, attribute])
    with ada.page.context.expect_page() as opened:
        ada.run("url => void window.open(url)", url)
    opened.value.wait_for_load_state()
    assert opened.value.inner_text("body") == REFUSAL
    ada.run(SUBMIT, url)
    ada.page.wait_for_url(f"{url}**")
    assert ada.page.inner_text("body") == REFUSAL
    assert {(each.method, each.status) for each in asked} == {("GET", 403), ("POST", 405), ("OPTIONS", 405)}
    assert {each.site for each in asked} == {"same-site" if other == "same-site" else "cross-site"}
    with_cookies = {each.purpose for each in asked if each.cookies}
    assert with_cookies == {"empty", "image", "script", "style", "iframe", "object", "embed", "video", "document"}


def test_the_sites_own_elements_and_address_bar_get_none(ada: Visit, site: Site) -> None:
    """What is not a script's request is refused, even from a page of the site."""
    ada.go("/plain/")
    asked.clear()
    for tag, attribute in ELEMENTS.items():
        ada.run(EMBED, [ENDPOINT, tag, attribute])
    ada.go(ENDPOINT)
    assert ada.page.inner_text("body") == REFUSAL
    assert [(each.site, each.cookies, each.status) for each in asked] == [
        *[("same-origin", True, 403)] * len(ELEMENTS),
        ("none", True, 403),
    ]


@pytest.mark.parametrize("allowed", [["content-type"], ["x-hubspot-identify"]], ids=["as usual", "our header too"])
@pytest.mark.parametrize("site", [[CORS]], indirect=True, ids=["cors"])
def test_cors_for_everybody_does_not_let_them_ask(
    ada: Visit, site: Site, settings: Settings, allowed: list[str]
) -> None:
    """django-cors-headers with credentials and all origins: other sites read the site's pages, and no identity."""
    settings.CORS_ALLOW_ALL_ORIGINS = settings.CORS_ALLOW_CREDENTIALS = True
    settings.CORS_ALLOW_HEADERS = allowed
    for host in OTHERS.values():
        go_elsewhere(ada, host)
        assert "Ada's own page" in ada.run(ASK, [site.url("/plain/"), {}])
        said = {name: ada.run(ASK, [site.url(ENDPOINT), options]) for name, options in FETCHES.items()}
        assert said["plain"] == REFUSAL
        assert said["with our header"] == (REFUSAL if "x-hubspot-identify" in allowed else "TypeError")
        got = [each for each in asked if each.method == "GET"]
        assert {(each.status, each.cookies) for each in got} == {(403, True)}
